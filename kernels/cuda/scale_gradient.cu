// Gradient of dequantized values by their scales. A team of threads sums what shares a scale, in
// one order; groups of listed columns are summed by a thread each, columns in order. Reads dy and
// the codes once (listed groups: once a group, from the caches).
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {
namespace {

template <int kWidth>
__global__ void __launch_bounds__(kBlockThreads)
    sum_segments(const float* dy, const int8_t* codes, const float* second, float* dscale,
                 int64_t segments, int64_t length, QuantSpec spec, bool accumulate, Team team) {
  const int64_t segment = int64_t(blockIdx.x) * (kBlockThreads / team.size) + team.index();
  const bool real = segment < segments;
  const int64_t at = real ? segment : 0, start = at * length;
  const float zero = origin_of(spec, second ? second[at] : 0.0f);
  float sum = 0.0f;
  for (int64_t i = team.rank() * kWidth; i < length; i += team.size * kWidth) {
    float d[kWidth], c[kWidth];
    load(dy + start + i, d);
    load(codes + start + i, c);
    for (int k = 0; k < kWidth; ++k) sum += d[k] * (c[k] - zero);
  }
  sum = team.reduce(sum, Sum{});
  if (real && team.rank() == 0) dscale[segment] = accumulate ? dscale[segment] + sum : sum;
}

__global__ void __launch_bounds__(kBlockThreads)
    sum_listed(const float* dy, const int8_t* codes, const float* second, const int32_t* group_K,
               float* dscale, int64_t cols, int64_t groups, QuantSpec spec, bool accumulate) {
  const int64_t row = blockIdx.x;
  for (int64_t group = threadIdx.x; group < groups; group += kBlockThreads) {
    const int64_t at = row * groups + group;
    const float zero = origin_of(spec, second ? second[at] : 0.0f);
    float sum = accumulate ? dscale[at] : 0.0f;
    for (int64_t k = 0; k < cols; ++k)
      if (group_K[k] == group) sum += dy[row * cols + k] * (float(codes[row * cols + k]) - zero);
    dscale[at] = sum;
  }
}

}  // namespace

void scale_gradient(const ScaleGradient& args, Stream& stream) {
  const int64_t cols = args.codes.cols(), rows = args.codes.rows();
  const float* dy = args.dy.as<float>();
  const auto* codes = args.codes.as<int8_t>();
  const float* second = args.zero.as<float>();
  float* dscale = args.dscale.as<float>();
  if (args.codes.count() == 0) return;
  if (args.group_K) {
    launch(sum_listed, Blocks{rows}, kBlockThreads, 0, stream, dy, codes, second,
           args.group_K.as<int32_t>(), dscale, cols, args.dscale.count() / rows, args.spec,
           args.accumulate);
    return;
  }
  const int64_t length = segment_length(args.codes, args.spec);
  const int64_t segments = args.codes.count() / length;
  const bool wide = fits_wide(length, args.dy.data, args.codes.data);
  const Team team = team_for(length, length % kWide == 0);
  launch(wide ? sum_segments<kWide> : sum_segments<1>, team_blocks(segments, team), kBlockThreads,
         0, stream, dy, codes, second, dscale, segments, length, args.spec, args.accumulate, team);
}

}  // namespace qat::cuda
