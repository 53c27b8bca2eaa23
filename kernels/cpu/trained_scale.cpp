// Scales as files hold them, and LSQ's gradients. A scale's sum over its elements has one
// order for any number of threads: a row or group lies in one range, a whole tensor in fixed
// chunks.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"
#include "kernels/cpu/parallel.h"

namespace qat::cpu {

void round_scale(const RoundScale& args, Stream& stream) {
  over_ranges(stream, args.raw.count(), 16, 1, [&](int64_t begin, int64_t end) {
    vector_kernels().round_scale(args.raw.as<float>() + begin, args.scale.as<float>() + begin,
                                 args.type, args.negative, end - begin);
  });
}

size_t trained_scale_backward_scratch_bytes(const TrainedScaleBackward& args) {
  return args.spec.per == Per::tensor ? size_t(kChunks) * sizeof(float) : 0;
}

namespace {

ScaleGradientJob job_of(const TrainedScaleBackward& args, int64_t first) {
  ScaleGradientJob job;
  job.gradient.dy = at(args.dy, first);
  job.gradient.dy_type = args.dy.dtype;
  job.gradient.x = at(args.x, first);
  job.gradient.x_type = args.x.dtype;
  job.gradient.scale = args.scale.as<float>();
  job.gradient.zero = args.zero ? args.zero.as<float>() : nullptr;
  job.gradient.dx = at(args.dx, first);
  job.gradient.dx_type = args.dx.dtype;
  job.gradient.segments = 1;
  job.gradient.spec = args.spec;
  job.gain = args.gain;
  return job;
}

void one_scale_backward(const TrainedScaleBackward& args, const Stream& stream) {
  const int64_t count = args.x.count();
  float* parts = args.scratch.as<float>();
  over_ranges(stream, kChunks, 1, count / kChunks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Chunk chunk = chunk_of(count, i);
      ScaleGradientJob job = job_of(args, chunk.begin);
      job.gradient.length = chunk.end - chunk.begin;
      job.dscale = parts + i;
      job.gain = 1.0f;
      vector_kernels().scale_gradient(job);
    }
  });
  double total = 0.0;
  for (int64_t i = 0; i < kChunks; ++i) total += double(parts[i]);
  args.dscale.as<float>()[0] = float(total * double(args.gain));
}

}  // namespace

void trained_scale_backward(const TrainedScaleBackward& args, Stream& stream) {
  if (args.spec.per == Per::tensor) return one_scale_backward(args, stream);
  const auto [segments, length] = segments_of(args.x, args.spec);
  over_ranges(stream, segments, 1, length, [&, length = length](int64_t begin, int64_t end) {
    ScaleGradientJob job = job_of(args, begin * length);
    job.gradient.scale += begin;
    if (job.gradient.zero) job.gradient.zero += begin;
    job.gradient.segments = end - begin;
    job.gradient.length = length;
    job.dscale = args.dscale.as<float>() + begin;
    vector_kernels().scale_gradient(job);
  });
}

}  // namespace qat::cpu
