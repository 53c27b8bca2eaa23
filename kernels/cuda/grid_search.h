// Grids of least squared error, for kernels/cuda/grids.cu: the same candidates, sums in the same
// order and hence the same choice as on the CPU (kernels/cpu/vector/quantize.cpp, super_blocks.h).
#pragma once

#include "kernels/cuda/grids.h"

namespace qat::cuda {

inline constexpr int kSearchThreads = 64;  // four sums of sixteen lanes
inline constexpr int64_t kShortest = 256;  // longer segments are summed in lanes

struct ShiftedRange {
  float low, high;
};
QAT_DEVICE ShiftedRange shifted_range(const QuantSpec& spec, float zero) {
  return {kShift + float(spec.qmin()) - zero, kShift + float(spec.qmax()) - zero};
}

/// A lower bound of the squared error that clipping alone costs; grows as the scale shrinks.
QAT_DEVICE float clipping_error(const QuantSpec& spec, Extent extent, float scale) {
  const float size = magnitude(scale);
  if (!spec.symmetric()) {
    const float covered = float(spec.qmax() - spec.qmin()) * size;
    const float over = larger(extent.high - extent.low - covered, 0.0f);
    return 0.5f * over * over;
  }
  if (spec.range == Range::stretched) {
    const float reach = larger(0.0f - extent.low, extent.high) + stretched_low(spec) * size;
    const float over = larger(reach, 0.0f);
    return over * over;
  }
  const bool negative = scale < 0.0f;
  const float low = negative ? 0.0f - extent.high : extent.low;
  const float high = negative ? 0.0f - extent.low : extent.high;
  const float above = high - float(spec.qmax()) * size;
  const float below = float(spec.qmin()) * size - low;
  const float over = larger(larger(above, below), 0.0f);
  return over * over;
}

/// Adds the squared error, in units of the scale, of x on the grid.
QAT_DEVICE float add_error(float errors, float x, float inverse, ShiftedRange range) {
  const float code = smaller(larger(fmaf(x, inverse, kShift), range.low), range.high);
  const float error = fmaf(x, inverse, kShift - code);
  return fmaf(error, error, errors);
}

/// Where x / scale counts from for add_error: the lowest level of a stretched range.
QAT_DEVICE float add_error(float errors, float x, float inverse, ShiftedRange range, float lowest) {
  const float position = fmaf(x, inverse, lowest);
  const float code = smaller(larger(position + kShift, range.low), range.high) - kShift;
  const float error = position - code;
  return fmaf(error, error, errors);
}

// Rounding of sums must not make a bound exceed what it bounds.
inline constexpr float kBoundMargin = 1.00001f;

/// Widens an extent by a value; size becomes the largest magnitude by its bits, so that NaN wins.
QAT_DEVICE void widen(Extent& extent, uint32_t& size, float value) {
  extent.low = smaller(value, extent.low);
  extent.high = larger(value, extent.high);
  const uint32_t bits = bits_of(magnitude(value));
  size = bits > size ? bits : size;
}
QAT_DEVICE Extent with_nan(Extent extent, uint32_t size) {
  const float largest = float_of(size);
  return is_nan(largest) ? Extent{largest, largest} : extent;
}

/// Squared error of a short segment: four sums by turns.
template <class T>
QAT_DEVICE float short_error(const T* x, int64_t length, const QuantSpec& spec, Grid grid) {
  const float inverse = 1.0f / grid.scale;
  const ShiftedRange range = shifted_range(spec, grid.zero);
  float errors[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  int64_t i = 0;
  if (spec.range == Range::stretched)
    for (; i < length; ++i)
      errors[i % 4] =
          add_error(errors[i % 4], to_float(x[i]), inverse, range, -stretched_low(spec));
  for (; i + 4 <= length; i += 4)
    for (int k = 0; k < 4; ++k)
      errors[k] = add_error(errors[k], to_float(x[i + k]), inverse, range);
  for (; i < length; ++i) errors[0] = add_error(errors[0], to_float(x[i]), inverse, range);
  return ((errors[0] + errors[1]) + (errors[2] + errors[3])) * (grid.scale * grid.scale);
}

/// Squared error of a long segment, by all kSearchThreads of a block: sixteen lanes of four sums,
/// folded in halves. sums: shared.
template <class T>
QAT_DEVICE float long_error(const T* x, int64_t length, const QuantSpec& spec, Grid grid,
                            float* sums) {
  const float inverse = 1.0f / grid.scale;
  const ShiftedRange range = shifted_range(spec, grid.zero);
  const int thread = int(threadIdx.x);
  float errors = 0.0f, rest = 0.0f;
  int64_t i = 0;
  if (spec.range == Range::stretched) {
    const int64_t whole = length / 16 * 16;
    for (i = thread; i < whole; i += kSearchThreads)
      errors = add_error(errors, to_float(x[i]), inverse, range, -stretched_low(spec));
    for (i = whole; i < length; ++i) {
      const float position = to_float(x[i]) * inverse - stretched_low(spec);
      const float top = float(spec.qmax() - spec.qmin());
      const float error = position - smaller(larger(round_even(position), 0.0f), top);
      rest = rest + error * error;
    }
  }
  for (; i + kSearchThreads <= length; i += kSearchThreads)
    errors = add_error(errors, to_float(x[i + thread]), inverse, range);
  if (thread < 16)
    for (i += thread; i < length; i += 16)
      errors = add_error(errors, to_float(x[i]), inverse, range);
  __syncthreads();
  sums[thread] = errors;
  __syncthreads();
  float lanes[16];
  for (int lane = 0; lane < 16; ++lane)
    lanes[lane] = (sums[lane] + sums[lane + 16]) + (sums[lane + 32] + sums[lane + 48]);
  for (int width = 8; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return (lanes[0] + rest) * (grid.scale * grid.scale);
}

// ---- ggml's K-types: a sub-block a thread ----

/// A sub-block's own fit; scale is NaN where an element is.
struct Fit {
  float scale, minimum;
};

/// Turns u into units of its largest magnitude. `unit` is NaN where an element is.
template <int kLength>
QAT_DEVICE void to_units(float (&u)[kLength], float& unit, float& inside) {
  uint32_t size = 0;
  for (int i = 0; i < kLength; ++i) {
    const uint32_t bits = bits_of(magnitude(u[i]));
    size = bits > size ? bits : size;
  }
  unit = float_of(size);
  inside = smaller(unit, kLargestFloat);
  const float inverse = inside < kSmallestNormal ? 0.0f : 1.0f / inside;
  for (int i = 0; i < kLength; ++i)
    u[i] = smaller(larger(u[i], -kLargestFloat), kLargestFloat) * inverse;
}

/// Codes 0 to 15, value = code * scale + minimum with a minimum that is not positive.
QAT_DEVICE Fit fit_q4_k(float (&u)[32]) {
  constexpr int kLength = 32, kCandidates = 10;  // on either side
  float unit, inside;
  to_units(u, unit, inside);
  float low = 0.0f, high = -1.0f, squares = 0.0f;
  for (int i = 0; i < kLength; ++i) {
    low = smaller(u[i], low);
    high = larger(u[i], high);
    squares = fmaf(u[i], u[i], squares);
  }
  const float root = sqrtf(squares * (1.0f / kLength));
  float weight = 0.0f, first = 0.0f, second = 0.0f;  // sums of w, w u, w u^2
  for (int i = 0; i < kLength; ++i) {
    const float w = root + magnitude(u[i]), wu = w * u[i];
    weight = weight + w;
    first = first + wu;
    second = fmaf(wu, u[i], second);
  }
  const float range = high - low;
  float best_scale = range * (1.0f / 15.0f), best_minimum = low, best_error = kLargestFloat;
  const float inverse_range = range < kSmallestNormal ? 0.0f : 1.0f / range;
  for (int t = -kCandidates; t <= kCandidates; ++t) {
    const float inverse = (15.0f + 0.1f * float(t)) * inverse_range;
    float codes[2] = {0.0f, 0.0f}, squared[2] = {0.0f, 0.0f}, mixed[2] = {0.0f, 0.0f};
    for (int i = 0; i < kLength; ++i) {
      const float w = root + magnitude(u[i]);
      const float moved = smaller(larger((u[i] - low) * inverse + kShift, kShift), kShift + 15.0f);
      const float q = moved - kShift, wq = w * q;
      codes[i % 2] = codes[i % 2] + wq;
      squared[i % 2] = fmaf(wq, q, squared[i % 2]);
      mixed[i % 2] = fmaf(wq, u[i], mixed[i % 2]);
    }
    const float q = codes[0] + codes[1], qq = squared[0] + squared[1], qu = mixed[0] + mixed[1];
    const float determinant = weight * qq - q * q;
    const float inverse_determinant = 1.0f / determinant;
    float scale = (weight * qu - first * q) * inverse_determinant;
    float minimum = (qq * first - q * qu) * inverse_determinant;
    if (0.0f < minimum) {
      scale = qu / qq;
      minimum = 0.0f;
    }
    const float error = (second + scale * (scale * qq - 2.0f * qu)) +
                        minimum * ((weight * minimum - 2.0f * first) + 2.0f * (scale * q));
    if (error < best_error && 0.0f < determinant && 0.0f < scale) {
      best_error = error;
      best_scale = scale;
      best_minimum = minimum;
    }
  }
  return {is_nan(unit) ? unit : best_scale * inside, best_minimum * inside};
}

/// Codes -32 to 31, value = code * scale.
QAT_DEVICE Fit fit_q6_k(float (&u)[16]) {
  constexpr int kLength = 16, kCandidates = 9;  // on either side
  float unit, inside;
  to_units(u, unit, inside);
  float size = 0.0f, peak = 0.0f;
  for (int i = 0; i < kLength; ++i)
    if (size < magnitude(u[i])) {
      size = magnitude(u[i]);
      peak = u[i];
    }
  const bool empty = size < 0.5f;  // 0, or too small for a unit
  float best_scale = peak * (-1.0f / 32.0f), best_gain = 0.0f;
  const float inverse_peak = empty ? 0.0f : 1.0f / peak;
  for (int t = -kCandidates; t <= kCandidates; ++t) {
    const float inverse = (-32.0f - 0.1f * float(t)) * inverse_peak;
    float squared = 0.0f, mixed = 0.0f;  // sums of w q^2, w q u
    for (int i = 0; i < kLength; ++i) {
      const float moved = smaller(larger(u[i] * inverse + kShift, kShift - 32.0f), kShift + 31.0f);
      const float q = moved - kShift, wq = (u[i] * u[i]) * q;
      squared = fmaf(wq, q, squared);
      mixed = fmaf(wq, u[i], mixed);
    }
    const float scale = mixed / squared, gain = scale * mixed;
    if (best_gain < gain && 0.0f < squared) {
      best_gain = gain;
      best_scale = scale;
    }
  }
  return {is_nan(unit) ? unit : best_scale * inside, 0.0f};
}

/// Ties the scales of a super-block together; its sub-blocks are `count` lanes that follow each
/// other.
QAT_DEVICE Fit tie_q4_k(Fit fit) {
  constexpr int kCount = 8;
  const int base = lane_id() / kCount * kCount;
  float top = 0.0f, deep = 0.0f;
  bool nan = false;
  for (int j = 0; j < kCount; ++j) {
    const float scale = __shfl_sync(kAllLanes, fit.scale, base + j);
    const float minimum = __shfl_sync(kAllLanes, fit.minimum, base + j);
    nan = nan || is_nan(scale);
    top = larger(scale, top);
    deep = larger(-minimum, deep);
  }
  const float d = stored_scale(top / 63.0f, ScaleType::f16);
  const float depth = stored_minimum(deep / 63.0f, ScaleType::f16);
  // A multiple of 0 could say nothing that 1 cannot.
  const float steps = smaller(larger(round_even(fit.scale / d), 1.0f), 63.0f);
  const float down =
      depth > 0.0f ? smaller(larger(round_even(-fit.minimum / depth), 0.0f), 63.0f) : 0.0f;
  return {nan ? float_of(0x7FC00000u) : d * steps, nan ? 0.0f : 0.0f - depth * down};
}
QAT_DEVICE Fit tie_q6_k(Fit fit) {
  constexpr int kCount = 16;
  const int base = lane_id() / kCount * kCount;
  float top = 0.0f;
  bool nan = false;
  for (int j = 0; j < kCount; ++j) {
    const float scale = __shfl_sync(kAllLanes, fit.scale, base + j);
    nan = nan || is_nan(scale);
    top = magnitude(scale) > magnitude(top) ? scale : top;
  }
  const float d = stored_scale(top / -128.0f, ScaleType::f16);
  const float steps = smaller(larger(round_even(fit.scale / d), -128.0f), 127.0f);
  return {nan ? float_of(0x7FC00000u) : d * (steps == 0.0f ? 1.0f : steps), 0.0f};
}

}  // namespace qat::cuda
