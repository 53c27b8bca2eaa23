// Quantize and dequantize in one read, and the straight-through gradient.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"
#include "kernels/cpu/parallel.h"

namespace qat::cpu {

void fake_quant(const FakeQuant& args, Stream& stream) {
  if (!args.noise.step)
    return run_quantize(args.x, args.given_scale, args.given_zero, args.y, args.scale, args.zero,
                        args.spec, stream);
  if (!args.given_scale) run_quantize(args.x, {}, {}, {}, args.scale, args.zero, args.spec, stream);
  run_stochastic(args.x, args.given_scale ? args.given_scale : ConstView(args.scale),
                 args.given_scale ? args.given_zero : ConstView(args.zero), args.y, args.spec,
                 args.noise, stream);
}

void fake_quant_backward(const FakeQuantBackward& args, Stream& stream) {
  const bool one_scale = args.spec.per == Per::tensor;
  const Segments all = one_scale ? Segments{args.x.count(), 1} : segments_of(args.x, args.spec);
  over_ranges(stream, all.segments, one_scale ? 64 : 1, all.length,
              [&](int64_t begin, int64_t end) {
                GradientJob job;
                job.dy = at(args.dy, begin * all.length);
                job.dy_type = args.dy.dtype;
                job.x = at(args.x, begin * all.length);
                job.x_type = args.x.dtype;
                job.scale = args.scale.as<float>() + (one_scale ? 0 : begin);
                job.zero = args.zero ? args.zero.as<float>() + (one_scale ? 0 : begin) : nullptr;
                job.dx = at(args.dx, begin * all.length);
                job.dx_type = args.dx.dtype;
                job.segments = one_scale ? 1 : end - begin;
                job.length = one_scale ? end - begin : all.length;
                job.spec = args.spec;
                vector_kernels().gradient(job);
              });
}

}  // namespace qat::cpu
