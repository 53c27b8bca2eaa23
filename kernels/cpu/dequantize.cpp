// Values of codes.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"
#include "kernels/cpu/parallel.h"

namespace qat::cpu {

void dequantize(const Dequantize& args, Stream& stream) {
  const bool one_scale = args.spec.per == Per::tensor;
  const Segments all =
      one_scale ? Segments{args.codes.count(), 1} : segments_of(args.codes, args.spec);
  over_ranges(stream, all.segments, one_scale ? 64 : 1, all.length,
              [&](int64_t begin, int64_t end) {
                DequantizeJob job;
                job.codes = args.codes.as<int8_t>() + begin * all.length;
                job.scale = args.scale.as<float>() + (one_scale ? 0 : begin);
                job.zero = args.zero ? args.zero.as<float>() + (one_scale ? 0 : begin) : nullptr;
                job.y = at(args.y, begin * all.length);
                job.y_type = args.y.dtype;
                job.segments = one_scale ? 1 : end - begin;
                job.length = one_scale ? end - begin : all.length;
                job.spec = args.spec;
                vector_kernels().dequantize(job);
              });
}

}  // namespace qat::cpu
