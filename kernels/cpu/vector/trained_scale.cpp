// Scales rounded to their stored type, and LSQ's gradients. The arithmetic is that of stored_scale,
// trained_scale and scale_slope in kernels/quant_math.h.
#include "kernels/cpu/vector/lane_grids.h"
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

void round_scale(const float* raw, float* out, ScaleType type, NegativeScale negative,
                 int64_t count) {
  const Lanes least = all(negative == NegativeScale::zero ? 0.0f : -kLargestFloat);
  over_lanes(count, [=](int64_t i, auto part) {
    const Lanes value = load(raw + i, part);
    store(out + i, stored_scale(select(less(value, least), least, value), type), part);
  });
}

template <class X, class Upstream, class Gradient>
QAT_LANES_SHARED float stretched_segment(const X* x, const Upstream* dy, Gradient* dx,
                                         int64_t length, Lanes inverse, const QuantSpec& spec) {
  const Lanes low = all(float(spec.qmin())), high = all(float(spec.qmax())), half = all(0.5f);
  Lanes sums[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  over_lanes_in_fours(length, [&](int64_t i, auto part, int k) {
    const Lanes position = load(x + i, part) * inverse - half, upstream = load(dy + i, part);
    const Mask inside = both(at_least(position, low - half), at_least(high + half, position));
    const Lanes code = (min(max(position, low), high) + all(kShift)) - all(kShift);
    sums[k] = sums[k] + upstream * select(inside, code - position, code + half);
    store(dx + i, select(inside, upstream, all(0.0f)), part);
  });
  return sum(sums);
}

template <class X, class Upstream, class Gradient>
void scale_gradient_segments(const ScaleGradientJob& job) {
  const GradientJob& g = job.gradient;
  const X* x = static_cast<const X*>(g.x);
  const Upstream* dy = static_cast<const Upstream*>(g.dy);
  Gradient* dx = static_cast<Gradient*>(g.dx);
  const int64_t length = g.length;
  for (int64_t s = 0; s < g.segments; ++s, x += length, dy += length, dx += length) {
    const float zero = g.zero != nullptr ? g.zero[s] : 0.0f;
    const Lanes inverse = all(1.0f / g.scale[s]);
    if (g.spec.range == Range::stretched) {
      job.dscale[s] = stretched_segment(x, dy, dx, length, inverse, g.spec) * job.gain;
      continue;
    }
    const Lanes low = all(float(g.spec.qmin()) - zero), high = all(float(g.spec.qmax()) - zero);
    Lanes sums[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
    over_lanes_in_fours(length, [&](int64_t i, auto part, int k) {
      const Lanes position = load(x + i, part) * inverse, upstream = load(dy + i, part);
      const Mask inside = both(at_least(position, low), at_least(high, position));
      const Lanes code = (min(max(position, low), high) + all(kShift)) - all(kShift);
      const Lanes slope = select(inside, code - position, code);
      sums[k] = sums[k] + upstream * slope;
      store(dx + i, select(inside, upstream, all(0.0f)), part);
    });
    job.dscale[s] = sum(sums) * job.gain;
  }
}

template <class X, class Upstream>
void scale_gradient_into(const ScaleGradientJob& job) {
  if (job.gradient.dx_type == DType::f32)
    scale_gradient_segments<X, Upstream, float>(job);
  else
    scale_gradient_segments<X, Upstream, BFloat16>(job);
}

template <class X>
void scale_gradient_of(const ScaleGradientJob& job) {
  if (job.gradient.dy_type == DType::f32)
    scale_gradient_into<X, float>(job);
  else
    scale_gradient_into<X, BFloat16>(job);
}

void scale_gradient(const ScaleGradientJob& job) {
  if (job.gradient.x_type == DType::f32)
    scale_gradient_of<float>(job);
  else
    scale_gradient_of<BFloat16>(job);
}

}  // namespace

void fill_trained_scale(VectorKernels& table) {
  table.round_scale = round_scale;
  table.scale_gradient = scale_gradient;
}

}  // namespace qat::cpu::QAT_LANES
