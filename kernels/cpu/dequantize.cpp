// Values of codes.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"
#include "kernels/cpu/parallel.h"
#include "kernels/float_types.h"
#include "kernels/quant_math.h"

namespace qat::cpu {
namespace {

void dequantize_listed(const Dequantize& args, Stream& stream) {
  const int64_t rows = args.codes.rows(), columns = args.codes.cols();
  const int64_t groups = args.scale.count() / rows;
  const int32_t* group_K = args.group_K.as<int32_t>();
  over_ranges(stream, rows, 1, columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t at = row * groups + group_K[k], i = row * columns + k;
        const float second = args.zero ? args.zero.as<float>()[at] : 0.0f;
        const float value = value_of(float(args.codes.as<int8_t>()[i]),
                                     stored_grid(args.spec, args.scale.as<float>()[at], second));
        if (args.y.dtype == DType::f32)
          args.y.as<float>()[i] = value;
        else
          args.y.as<BFloat16>()[i] = to_bfloat16(value);
      }
  });
}

}  // namespace

void dequantize(const Dequantize& args, Stream& stream) {
  if (args.group_K) return dequantize_listed(args, stream);
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
