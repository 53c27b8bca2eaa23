// Gradient of dequantized values by their scales. One thread sums all that shares a scale, in eight
// lanes that are added in order.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"
#include "kernels/cpu/parallel.h"
#include "kernels/quant_math.h"

namespace qat::cpu {
namespace {

constexpr int64_t kLanes = 8;

float gradient_of(const float* dy, const int8_t* codes, float zero, int64_t count) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] += dy[i + lane] * (float(codes[i + lane]) - zero);
  float sum = 0.0f;
  for (; i < count; ++i) sum += dy[i] * (float(codes[i]) - zero);
  for (const float lane : lanes) sum += lane;
  return sum;
}

// Groups of listed columns: a row after the other, columns in order.
void gradient_of_listed(const ScaleGradient& args, Stream& stream) {
  const int64_t rows = args.codes.rows(), columns = args.codes.cols();
  const int64_t groups = args.dscale.count() / rows;
  over_ranges(stream, rows, 1, columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* out = args.dscale.as<float>() + row * groups;
      if (!args.accumulate) std::fill_n(out, groups, 0.0f);
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t group = args.group_K.as<int32_t>()[k], i = row * columns + k;
        const float second = args.zero ? args.zero.as<float>()[row * groups + group] : 0.0f;
        const float zero = origin_of(args.spec, second);
        out[group] += args.dy.as<float>()[i] * (float(args.codes.as<int8_t>()[i]) - zero);
      }
    }
  });
}

}  // namespace

void scale_gradient(const ScaleGradient& args, Stream& stream) {
  if (args.group_K) return gradient_of_listed(args, stream);
  const Segments all = args.spec.per == Per::tensor ? Segments{1, args.codes.count()}
                                                    : segments_of(args.codes, args.spec);
  over_ranges(stream, all.segments, 1, all.length, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const float second = args.zero ? args.zero.as<float>()[s] : 0.0f;
      const float zero = origin_of(args.spec, second);
      const float sum = gradient_of(args.dy.as<float>() + s * all.length,
                                    args.codes.as<int8_t>() + s * all.length, zero, all.length);
      float& out = args.dscale.as<float>()[s];
      out = args.accumulate ? out + sum : sum;
    }
  });
}

}  // namespace qat::cpu
