// Scales as files hold them, and LSQ's gradients. A row or group is summed by a team of threads in
// one order, a whole tensor in fixed parts that are then added in order. Reads dy and x once,
// writes dx once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {
namespace {

struct RoundRun {
  const float* raw;
  float* scale;
  ScaleType type;
  NegativeScale negative;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    for (int k = 0; k < kWidth; ++k)
      scale[i + k] = negative == NegativeScale::zero ? trained_scale(raw[i + k], type)
                                                     : stored_scale(raw[i + k], type);
  }
};

template <class X, class Upstream, class Gradient>
struct Job {
  const Upstream* dy;
  const X* x;
  const float *scale, *zero;  ///< zero may be null
  Gradient* dx;
  float* out;  ///< a sum a segment
  int64_t segments, length, count;
  QuantSpec spec;
  float gain;
  bool one_scale;  ///< the segments are parts of a tensor with one scale
};

template <int kWidth, class X, class Upstream, class Gradient>
__global__ void __launch_bounds__(kBlockThreads)
    sum_slopes(Job<X, Upstream, Gradient> job, Team team) {
  const int64_t segment = int64_t(blockIdx.x) * (kBlockThreads / team.size) + team.index();
  const bool real = segment < job.segments;
  const int64_t at = real ? segment : 0, start = at * job.length;
  const int64_t left = job.count - start, length = left < job.length ? left : job.length;
  const int64_t grid = job.one_scale ? 0 : at;
  const float zero = job.zero ? job.zero[grid] : 0.0f, inverse = 1.0f / job.scale[grid];
  const CodeRange range = code_range(job.spec);
  float sum = 0.0f;
  if (real)
    for (int64_t i = start + team.rank() * kWidth; i < start + length; i += team.size * kWidth) {
      float v[kWidth], d[kWidth];
      load(job.x + i, v);
      load(job.dy + i, d);
      for (int k = 0; k < kWidth; ++k) {
        const ScaleSlope slope = job.spec.range == Range::stretched
                                     ? stretched_slope(v[k], inverse, range)
                                     : scale_slope(v[k], inverse, zero, range);
        sum += d[k] * slope.slope;
        if (!slope.inside) d[k] = 0.0f;
      }
      store(job.dx + i, d);
    }
  sum = team.reduce(sum, Sum{});
  if (real && team.rank() == 0) job.out[segment] = sum * job.gain;
}

__global__ void __launch_bounds__(kWarp)
    add_parts(const float* parts, int64_t count, float gain, float* dscale) {
  if (threadIdx.x != 0) return;
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += double(parts[i]);
  dscale[0] = float(total * double(gain));
}

constexpr int64_t kParts = 256;
constexpr int64_t kPartElements = 2048;

}  // namespace

void round_scale(const RoundScale& args, Stream& stream) {
  elementwise(stream, args.raw.count(), false,
              RoundRun{args.raw.as<float>(), args.scale.as<float>(), args.type, args.negative});
}

void trained_scale_backward(const TrainedScaleBackward& args, Stream& stream) {
  const int64_t count = args.x.count();
  if (count == 0) return;
  const bool one_scale = args.spec.per == Per::tensor;
  const int64_t most = divided_up(divided_up(count, kParts), kPartElements) * kPartElements;
  const int64_t length = one_scale ? most : segment_length(args.x, args.spec);
  const int64_t segments = divided_up(count, length);
  auto* parts = workspace_of<float>(stream);
  const bool wide = fits_wide(one_scale ? count : length, args.x.data, args.dy.data, args.dx.data);
  const Team team = team_for(length, length % kWide == 0);
  with_float(args.x.dtype, [&](auto x) {
    with_float(args.dy.dtype, [&](auto dy) {
      with_float(args.dx.dtype, [&](auto dx) {
        using X = decltype(x);
        using Upstream = decltype(dy);
        using Gradient = decltype(dx);
        const Job<X, Upstream, Gradient> job{args.dy.as<Upstream>(),
                                             args.x.as<X>(),
                                             args.scale.as<float>(),
                                             args.zero.as<float>(),
                                             args.dx.as<Gradient>(),
                                             one_scale ? parts : args.dscale.as<float>(),
                                             segments,
                                             length,
                                             count,
                                             args.spec,
                                             one_scale ? 1.0f : args.gain,
                                             one_scale};
        launch(
            wide ? sum_slopes<kWide, X, Upstream, Gradient> : sum_slopes<1, X, Upstream, Gradient>,
            team_blocks(segments, team), kBlockThreads, 0, stream, job, team);
      });
    });
  });
  if (one_scale)
    launch(add_parts, Blocks{1}, kWarp, 0, stream, parts, segments, args.gain,
           args.dscale.as<float>());
}

}  // namespace qat::cuda
