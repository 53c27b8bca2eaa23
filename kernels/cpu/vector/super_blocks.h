// The scales of ggml's K-types: super-blocks of 256 elements of a row, sixteen sub-blocks at a
// time, one a lane. Each sub-block is first fitted on its own, by weighted least squared error over
// a few ranges (in units of its largest value, so that nothing overflows); then the scales of a
// super-block become small multiples of one f16 number, and its minima of another.
#pragma once

#include "kernels/cpu/vector/lane_grids.h"
#include "kernels/cpu/vector/lanes.h"

namespace qat::cpu::QAT_LANES {

/// Fits of up to sixteen sub-blocks; a scale is NaN where an element is.
struct SubBlocks {
  alignas(64) float scale[16];
  alignas(64) float minimum[16];
};

/// Elements in units of the largest of their column, and that unit.
struct UnitColumns {
  Lanes unit;    ///< NaN where an element is
  Lanes inside;  ///< the unit as a finite number
};
QAT_LANES_INLINE UnitColumns to_units(float* columns, int64_t length) {
  Lanes size = all(0.0f);
  for (int64_t i = 0; i < length; ++i) size = max_magnitude(size, abs(load(columns + i * 16)));
  const Lanes inside = min(size, all(kLargestFloat));
  const Lanes inverse = select(less(inside, all(kSmallestNormal)), all(0.0f), all(1.0f) / inside);
  for (int64_t i = 0; i < length; ++i) {
    const Lanes value = load(columns + i * 16);
    const Lanes bounded = min(max(value, all(-kLargestFloat)), all(kLargestFloat));
    store(columns + i * 16, bounded * inverse);
  }
  return {size, inside};
}

/// Codes 0 to 15, value = code * scale + minimum with a minimum that is not positive. Elements
/// count by their magnitude and the root of the mean square, candidates are 14 to 16 steps of the
/// range, each with the scale and minimum that are best for its codes.
QAT_LANES_SHARED void fit_q4_k(float* columns, SubBlocks& fits) {
  constexpr int kLength = 32, kCandidates = 10;  // on either side
  alignas(64) float weights[kLength * 16];
  const UnitColumns units = to_units(columns, kLength);
  Lanes low = all(0.0f), high = all(-1.0f), squares = all(0.0f);
  for (int i = 0; i < kLength; ++i) {
    const Lanes u = load(columns + i * 16);
    low = min(u, low);
    high = max(u, high);
    squares = fused(u, u, squares);
  }
  const Lanes root = sqrt(squares * all(1.0f / kLength));
  Lanes weight = all(0.0f), first = all(0.0f), second = all(0.0f);  // sums of w, w u, w u^2
  for (int i = 0; i < kLength; ++i) {
    const Lanes u = load(columns + i * 16), w = root + abs(u), wu = w * u;
    store(weights + i * 16, w);
    weight = weight + w;
    first = first + wu;
    second = fused(wu, u, second);
  }
  const Lanes range = high - low;
  Lanes best_scale = range * all(1.0f / 15.0f), best_minimum = low;
  Lanes best_error = all(kLargestFloat);
  const Lanes inverse_range =
      select(less(range, all(kSmallestNormal)), all(0.0f), all(1.0f) / range);
  for (int t = -kCandidates; t <= kCandidates; ++t) {
    const Lanes inverse = all(15.0f + 0.1f * float(t)) * inverse_range;
    Lanes codes[2] = {all(0.0f), all(0.0f)}, squared[2] = {all(0.0f), all(0.0f)};
    Lanes mixed[2] = {all(0.0f), all(0.0f)};  // sums of w q, w q^2, w q u
    for (int i = 0; i < kLength; i += 2)
      for (int k = 0; k < 2; ++k) {
        const Lanes u = load(columns + (i + k) * 16), w = load(weights + (i + k) * 16);
        const Lanes moved =
            min(max((u - low) * inverse + all(kShift), all(kShift)), all(kShift + 15.0f));
        const Lanes q = moved - all(kShift), wq = w * q;
        codes[k] = codes[k] + wq;
        squared[k] = fused(wq, q, squared[k]);
        mixed[k] = fused(wq, u, mixed[k]);
      }
    const Lanes q = codes[0] + codes[1], qq = squared[0] + squared[1], qu = mixed[0] + mixed[1];
    const Lanes determinant = weight * qq - q * q;
    const Lanes inverse_determinant = all(1.0f) / determinant;
    Lanes scale = (weight * qu - first * q) * inverse_determinant;
    Lanes minimum = (qq * first - q * qu) * inverse_determinant;
    const Mask above = less(all(0.0f), minimum);
    scale = select(above, qu / qq, scale);
    minimum = select(above, all(0.0f), minimum);
    // sum w (scale q + minimum - u)^2
    const Lanes error =
        (second + scale * (scale * qq - all(2.0f) * qu)) +
        minimum * ((weight * minimum - all(2.0f) * first) + all(2.0f) * (scale * q));
    const Mask better =
        both(both(less(error, best_error), less(all(0.0f), determinant)), less(all(0.0f), scale));
    best_error = select(better, error, best_error);
    best_scale = select(better, scale, best_scale);
    best_minimum = select(better, minimum, best_minimum);
  }
  store(fits.scale, keep_nan(units.unit, best_scale * units.inside));
  store(fits.minimum, best_minimum * units.inside);
}

/// Codes -32 to 31, value = code * scale. Elements count by their square, candidates put the value
/// of largest magnitude on -31.1 to -32.9, each with the scale that is best for its codes.
QAT_LANES_SHARED void fit_q6_k(float* columns, SubBlocks& fits) {
  constexpr int kLength = 16, kCandidates = 9;  // on either side
  const UnitColumns units = to_units(columns, kLength);
  Lanes size = all(0.0f), peak = all(0.0f);
  for (int i = 0; i < kLength; ++i) {
    const Lanes u = load(columns + i * 16);
    const Mask larger_one = less(size, abs(u));
    size = select(larger_one, abs(u), size);
    peak = select(larger_one, u, peak);
  }
  const Mask empty = less(size, all(0.5f));  // 0, or too small for a unit
  Lanes best_scale = peak * all(-1.0f / 32.0f), best_gain = all(0.0f);
  const Lanes inverse_peak = select(empty, all(0.0f), all(1.0f) / peak);
  for (int t = -kCandidates; t <= kCandidates; ++t) {
    const Lanes inverse = all(-32.0f - 0.1f * float(t)) * inverse_peak;
    Lanes squared = all(0.0f), mixed = all(0.0f);  // sums of w q^2, w q u
    for (int i = 0; i < kLength; ++i) {
      const Lanes u = load(columns + i * 16);
      const Lanes moved =
          min(max(u * inverse + all(kShift), all(kShift - 32.0f)), all(kShift + 31.0f));
      const Lanes q = moved - all(kShift), wq = (u * u) * q;
      squared = fused(wq, q, squared);
      mixed = fused(wq, u, mixed);
    }
    const Lanes scale = mixed / squared, gain = scale * mixed;
    const Mask better = both(less(best_gain, gain), less(all(0.0f), squared));
    best_gain = select(better, gain, best_gain);
    best_scale = select(better, scale, best_scale);
  }
  store(fits.scale, keep_nan(units.unit, best_scale * units.inside));
  store(fits.minimum, all(0.0f));
}

/// Ties the `count` sub-blocks of one super-block together.
QAT_LANES_INLINE void tie_q4_k(float* scale, float* minimum, int count) {
  float top = 0.0f, deep = 0.0f;
  bool nan = false;
  for (int j = 0; j < count; ++j) {
    nan = nan || is_nan(scale[j]);
    top = larger(scale[j], top);
    deep = larger(-minimum[j], deep);
  }
  const float d = stored_scale(top / 63.0f, ScaleType::f16);
  const float depth = stored_minimum(deep / 63.0f, ScaleType::f16);
  for (int j = 0; j < count; ++j) {
    // A multiple of 0 could say nothing that 1 cannot.
    const float steps = smaller(larger(round_even(scale[j] / d), 1.0f), 63.0f);
    const float down =
        depth > 0.0f ? smaller(larger(round_even(-minimum[j] / depth), 0.0f), 63.0f) : 0.0f;
    scale[j] = nan ? float_of(0x7FC00000u) : d * steps;
    minimum[j] = nan ? 0.0f : 0.0f - depth * down;
  }
}
QAT_LANES_INLINE void tie_q6_k(float* scale, int count) {
  float top = 0.0f;
  bool nan = false;
  for (int j = 0; j < count; ++j) {
    nan = nan || is_nan(scale[j]);
    top = magnitude(scale[j]) > magnitude(top) ? scale[j] : top;
  }
  const float d = stored_scale(top / -128.0f, ScaleType::f16);
  for (int j = 0; j < count; ++j) {
    const float steps = smaller(larger(round_even(scale[j] / d), -128.0f), 127.0f);
    scale[j] = nan ? float_of(0x7FC00000u) : d * (steps == 0.0f ? 1.0f : steps);
  }
}

/// Grids of up to sixteen sub-blocks: whole super-blocks.
template <class T>
QAT_LANES_SHARED LaneGrid super_grids(const T* x, int segments, const QuantSpec& spec) {
  alignas(64) float columns[32 * 16];
  SubBlocks fits;
  fill_columns(x, spec.group, segments, columns);
  if (spec.form == Form::q4_k) {
    fit_q4_k(columns, fits);
    for (int s = 0; s < segments; s += 8) tie_q4_k(fits.scale + s, fits.minimum + s, 8);
  } else {
    fit_q6_k(columns, fits);
    tie_q6_k(fits.scale, 16);
  }
  const Lanes scale = load(fits.scale);
  const Lanes zero = all(spec.has_minimum() ? float(spec.qmin()) : 0.0f);
  return {scale, zero, load(fits.minimum), all(1.0f) / scale};
}

}  // namespace qat::cpu::QAT_LANES
