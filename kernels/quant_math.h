// The low-bit arithmetic, once: rounding, clamping, scale rules, scale types, packing. Kernels of
// every backend, solvers and exporters include this, so that the fake path, the integer path and
// the exported file agree to the bit. Sources of the rules: torchao quant_primitives.py
// (half_range, no_clip, min_max, order of rounding and zero point), vLLM scaled_quant.cu (amax),
// ggml-quants.c (signed_max).
//
// Values that are not finite: an infinite value counts as the largest finite one when a scale is
// computed and takes the outermost code; NaN anywhere under a scale makes that scale NaN, so that a
// fault upstream stays visible. Finite values never give NaN.
#pragma once

#include "kernels/float_types.h"
#include "kernels/quant_spec.h"

namespace qat {

constexpr float kLargestFloat = 0x1.FFFFFEp127f;
constexpr float kSmallestNormal = 0x1p-126f;

/// a > b ? a : b, so b when either is NaN: what the vector units compute.
QAT_HOST_DEVICE float larger(float a, float b) {
  return a > b ? a : b;
}
QAT_HOST_DEVICE float smaller(float a, float b) {
  return a < b ? a : b;
}
QAT_HOST_DEVICE float magnitude(float value) {
  return float_of(bits_of(value) & 0x7FFFFFFFu);
}
QAT_HOST_DEVICE bool is_nan(float value) {
  return magnitude(value) != magnitude(value);
}

/// Round half to even; beyond +-2^22 (no code is there) the bound is returned, and NaN becomes
/// -2^22. Never gives -0.
QAT_HOST_DEVICE float round_even(float value) {
  constexpr float kShift = 0x1.8p23f;
  const float bounded = smaller(larger(value, -0x1p22f), 0x1p22f);
  return (bounded + kShift) - kShift;
}

/// The largest float8_e4m3fn.
constexpr float kLargestE4m3 = 448.0f;
/// What is larger would round to more than that.
constexpr float kEndE4m3 = 464.0f;

/// The nearest float8_e4m3fn, half to even, saturating; NaN and the sign stay.
QAT_HOST_DEVICE float round_e4m3(float value) {
  if (is_nan(value)) return value;
  const float size = smaller(magnitude(value), kLargestE4m3);
  const uint32_t bits = bits_of(size);
  const float normal = float_of((bits + 0x7FFFFu + ((bits >> 20) & 1u)) >> 20 << 20);
  // Below 2^-6 the steps are 2^-9: adding 2^14 leaves them.
  const float rounded = size < 0x1p-6f ? (size + 0x1p14f) - 0x1p14f : normal;
  return float_of(bits_of(rounded) | (bits_of(value) & 0x80000000u));
}
/// The bits of round_e4m3; NaN is 0x7F.
QAT_HOST_DEVICE uint8_t e4m3_code(float value) {
  if (is_nan(value)) return 0x7Fu;
  const float rounded = round_e4m3(value);
  const uint32_t sign = (bits_of(rounded) >> 24) & 0x80u;
  const float size = magnitude(rounded);
  if (size < 0x1p-6f) return uint8_t(sign | uint32_t(size * 512.0f));
  return uint8_t(sign | ((bits_of(size) >> 20) - (120u << 3)));
}
/// The value of such bits.
QAT_HOST_DEVICE float e4m3_value(uint8_t code) {
  const uint32_t sign = uint32_t(code & 0x80u) << 24, size = code & 0x7Fu;
  if (size == 0x7Fu) return float_of(0x7FC00000u);
  if (size < 8u) return float_of(bits_of(float(size) * 0x1p-9f) | sign);
  return float_of(((size + (120u << 3)) << 20) | sign);
}

/// The number that a code stands for before its scale.
QAT_HOST_DEVICE float number_of(const QuantSpec& spec, int8_t code) {
  return spec.form == Form::e4m3 ? e4m3_value(uint8_t(code)) : float(code);
}

/// What a scale maps values to and from: value = (code - zero) * scale + minimum.
struct Grid {
  float scale;
  float zero;            ///< zero point, an integer; 0 when symmetric, qmin with a minimum
  float minimum = 0.0f;  ///< a real number; 0 unless the range has one
};

/// The lowest level of a stretched range, in scales.
QAT_HOST_DEVICE float stretched_low(const QuantSpec& spec) {
  return float(spec.qmin()) + 0.5f;
}

/// The grid of what is stored: a scale and, unless the spec is symmetric, a second number: the zero
/// point, or the minimum of a range that has one.
QAT_HOST_DEVICE Grid stored_grid(const QuantSpec& spec, float scale, float second) {
  if (spec.range == Range::stretched)
    return {scale, float(spec.qmin()), stretched_low(spec) * scale};
  if (spec.has_minimum()) return {scale, float(spec.qmin()), second};
  return {scale, second, 0.0f};
}
/// The second number of stored_grid.
QAT_HOST_DEVICE float second_of(const QuantSpec& spec, Grid grid) {
  return spec.has_minimum() ? grid.minimum : grid.zero;
}

/// What a code counts from before its scale, where only the scale is trained: the derivative of its
/// value is code - origin.
QAT_HOST_DEVICE float origin_of(const QuantSpec& spec, float second) {
  if (spec.range == Range::stretched) return -0.5f;
  return stored_grid(spec, 1.0f, second).zero;
}

/// Code limits as floats.
struct CodeRange {
  float low, high;
};

QAT_HOST_DEVICE CodeRange code_range(const QuantSpec& spec) {
  return {float(spec.qmin()), float(spec.qmax())};
}

/// rne(x / scale) + zero before clamping; inverse is inverse_scale. x counts from the minimum where
/// the grid has one.
QAT_HOST_DEVICE float position_of(float x, float inverse, float zero) {
  return round_even(x * inverse) + zero;
}

/// The code of x: an integer in [range.low, range.high].
QAT_HOST_DEVICE float code_of(float x, float inverse, float zero, CodeRange range) {
  return smaller(larger(position_of(x, inverse, zero), range.low), range.high);
}

/// The value of a code.
QAT_HOST_DEVICE float value_of(float code, Grid grid) {
  return (code - grid.zero) * grid.scale + grid.minimum;
}

/// True where the straight-through gradient passes.
QAT_HOST_DEVICE bool passes_gradient(float x, float inverse, float zero, CodeRange range) {
  const float position = position_of(x, inverse, zero);
  return position >= range.low && position <= range.high;
}

/// Smallest and largest of a set of values and 0 (of the values alone, where the range has a
/// minimum). Both are NaN if one of the values is.
struct Extent {
  float low = 0.0f, high = 0.0f;
};

QAT_HOST_DEVICE float amax_of(Extent extent) {
  return larger(-extent.low, extent.high);
}

QAT_HOST_DEVICE Extent finite_extent(Extent extent) {
  return {extent.low < -kLargestFloat ? -kLargestFloat : extent.low,
          extent.high > kLargestFloat ? kLargestFloat : extent.high};
}

/// The nearest size (a number that is not negative) that a file of this type stores, never
/// infinite.
QAT_HOST_DEVICE float stored_size(float size, ScaleType type) {
  switch (type) {
    case ScaleType::f32:
      return smaller(size, kLargestFloat);
    case ScaleType::bf16:
      return to_float(to_bfloat16(smaller(size, 0x1.FEp127f)));
    case ScaleType::f16:
      return to_float(to_float16(smaller(size, 65504.0f)));
    case ScaleType::portable:
      return to_float(to_float16(to_float(to_bfloat16(smaller(size, 65280.0f)))));
  }
  return size;
}

/// The nearest value that a file of this type stores and that can be divided by: never 0 (0 becomes
/// the type's smallest normal value), never infinite; the sign stays; NaN stays.
/// f16 and portable scales may be subnormal (portable: 8 significant bits, multiples of 2^-24).
QAT_HOST_DEVICE float stored_scale(float scale, ScaleType type) {
  if (is_nan(scale)) return scale;
  const bool half = type == ScaleType::f16 || type == ScaleType::portable;
  float size = stored_size(magnitude(scale), type);
  if (size < (half ? 0x1p-24f : kSmallestNormal)) size = half ? 0x1p-14f : kSmallestNormal;
  return scale < 0.0f ? -size : size;
}

/// What the trained number of a scale means (LSQ): as stored_scale, never below 0, so that a step
/// too far leaves the smallest scale instead of a mirrored grid.
QAT_HOST_DEVICE float trained_scale(float raw, ScaleType type) {
  return stored_scale(raw < 0.0f ? 0.0f : raw, type);
}

/// LSQ's derivative of the value of x by its scale (Esser et al., 2020): rne(x / scale) - x / scale
/// inside the range, the code at its end (counted from the zero point) outside. `inside`: where the
/// gradient of x passes.
struct ScaleSlope {
  float slope;
  bool inside;
};
QAT_HOST_DEVICE ScaleSlope scale_slope(float x, float inverse, float zero, CodeRange range) {
  const float position = x * inverse, low = range.low - zero, high = range.high - zero;
  const bool inside = position >= low && position <= high;
  const float code = round_even(smaller(larger(position, low), high));
  return {inside ? code - position : code, inside};
}
/// The same on a stretched range, whose outer levels' cells belong to it (ParetoQ).
QAT_HOST_DEVICE ScaleSlope stretched_slope(float x, float inverse, CodeRange range) {
  const float position = x * inverse - 0.5f;
  const bool inside = position >= range.low - 0.5f && position <= range.high + 0.5f;
  const float code = round_even(smaller(larger(position, range.low), range.high));
  return {inside ? code - position : code + 0.5f, inside};
}

/// The nearest minimum that a file of this type stores: may be 0, never infinite.
QAT_HOST_DEVICE float stored_minimum(float minimum, ScaleType type) {
  const float size = stored_size(magnitude(minimum), type);
  return minimum < 0.0f ? 0.0f - size : size;
}

/// The rule of a spec once what has no meaning for its range is resolved: an asymmetric range knows
/// min_max and mse only, one with a minimum min_max only, min_max of a symmetric range is no_clip,
/// the stretched range amax and mse, and only the full range has an end that is worth a negative
/// scale.
QAT_HOST_DEVICE ScaleRule effective_rule(const QuantSpec& spec) {
  if (spec.form == Form::e4m3) return ScaleRule::amax;
  if (spec.has_minimum()) return ScaleRule::min_max;
  const bool searched = spec.rule == ScaleRule::mse || spec.rule == ScaleRule::mse_signed;
  if (spec.range == Range::stretched) return searched ? ScaleRule::mse : ScaleRule::amax;
  if (!spec.symmetric()) return searched ? ScaleRule::mse : ScaleRule::min_max;
  if (searched) return spec.range == Range::full ? spec.rule : ScaleRule::mse;
  return spec.rule == ScaleRule::min_max ? ScaleRule::no_clip : spec.rule;
}

/// True if the scale is chosen by least squared error.
QAT_HOST_DEVICE bool is_searched(ScaleRule rule) {
  return rule == ScaleRule::mse || rule == ScaleRule::mse_signed;
}

/// The extent of -x.
QAT_HOST_DEVICE Extent mirrored(Extent extent) {
  return {-extent.high, -extent.low};
}

/// True if mse_signed gives these values a negative scale.
QAT_HOST_DEVICE bool takes_negative_scale(ScaleRule rule, Extent extent) {
  return rule == ScaleRule::mse_signed && extent.high > -extent.low;
}

/// The scale by rule, not yet rounded to its type. peak: the first value of largest magnitude, with
/// its sign (used by signed_max only). mse, mse_signed: the scale the search starts from.
QAT_HOST_DEVICE float raw_scale(const QuantSpec& spec, Extent extent, float peak) {
  const float low = float(spec.qmin()), high = float(spec.qmax());
  const Extent finite = finite_extent(extent);
  if (spec.form == Form::e4m3) return amax_of(finite) / kLargestE4m3;
  if (spec.range == Range::stretched) return amax_of(finite) / -low;
  const ScaleRule rule = effective_rule(spec);
  switch (rule) {
    case ScaleRule::amax:
      return amax_of(finite) / high;
    case ScaleRule::half_range:
      return amax_of(finite) / ((high - low) * 0.5f);
    case ScaleRule::signed_max: {
      const float bounded = smaller(larger(peak, -kLargestFloat), kLargestFloat);
      return (is_nan(peak) ? peak : bounded) / low;
    }
    case ScaleRule::min_max:
      return (finite.high - finite.low) / (high - low);
    case ScaleRule::mse:
      if (!spec.symmetric()) return (finite.high - finite.low) / (high - low);
      return larger(finite.low / low, finite.high / high);
    case ScaleRule::mse_signed: {
      const bool negative = takes_negative_scale(rule, finite);
      const Extent turned = negative ? mirrored(finite) : finite;
      const float size = larger(turned.low / low, turned.high / high);
      return negative ? -size : size;
    }
    case ScaleRule::no_clip:
      return larger(finite.low / low, finite.high / high);
  }
  return 0.0f;
}

/// The zero point of an asymmetric range that goes with a stored scale: clamp(qmin - rne(low /
/// scale)); 0 when symmetric or when the scale is NaN.
QAT_HOST_DEVICE float zero_point(const QuantSpec& spec, Extent extent, float scale) {
  if (spec.range != Range::asymmetric || is_nan(scale)) return 0.0f;
  const float low = float(spec.qmin()), high = float(spec.qmax());
  const float zero = low - round_even(finite_extent(extent).low / scale);
  return smaller(larger(zero, low), high);
}

/// Stored scale and zero point (or minimum) of a raw scale.
QAT_HOST_DEVICE Grid make_grid(const QuantSpec& spec, Extent extent, float raw) {
  const float scale = stored_scale(raw, spec.scale_type);
  if (spec.range == Range::stretched) return stored_grid(spec, scale, 0.0f);
  if (!spec.has_minimum()) return {scale, zero_point(spec, extent, scale), 0.0f};
  const float low = is_nan(scale) ? 0.0f : finite_extent(extent).low;
  return {scale, float(spec.qmin()), stored_minimum(low, spec.scale_type)};
}

/// What values are multiplied by to find their codes.
QAT_HOST_DEVICE float inverse_scale(const QuantSpec& spec, float raw, float stored) {
  const bool exact = spec.division == Division::exact && !is_searched(effective_rule(spec)) &&
                     !(magnitude(raw) < kSmallestNormal);
  return 1.0f / (exact ? raw : stored);
}

/// ScaleRule::mse tries the raw scales start * kShrink^i, i in [0, kShrinkSteps) (down to 0.3: what
/// 2 bits want), multiplied up in f32 one step at a time, keeps the stored grid of least squared
/// error, and at equal error the first one.
constexpr int kShrinkSteps = 40;
constexpr float kShrink = 0.97f;

/// Two int4 codes a byte, `low` in the low nibble, each code + 8.
QAT_HOST_DEVICE uint8_t pack_int4(int low, int high) {
  return uint8_t(((low + 8) & 15) | (((high + 8) & 15) << 4));
}
/// Codes of a byte of pack_int4.
QAT_HOST_DEVICE int low_int4(uint8_t byte) {
  return int(byte & 15) - 8;
}
QAT_HOST_DEVICE int high_int4(uint8_t byte) {
  return int(byte >> 4) - 8;
}

/// Packs `count` codes of `bits` bits, each plus 2^(bits-1), into 32-bit words from the lowest bit
/// up (codes may span words, as GPTQ's 3-bit files do). words: ceil(count * bits / 32),
/// overwritten.
QAT_HOST_DEVICE void pack_codes(const int8_t* codes, int64_t count, int bits, uint32_t* words) {
  const int64_t total = (count * bits + 31) / 32;
  for (int64_t w = 0; w < total; ++w) words[w] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t code = uint32_t(codes[i] + (1 << (bits - 1))) & ((1u << bits) - 1u);
    const int64_t at = i * bits;
    const int shift = int(at & 31);
    words[at >> 5] |= code << shift;
    if (shift + bits > 32) words[(at >> 5) + 1] |= code >> (32 - shift);
  }
}

/// The inverse of pack_codes.
QAT_HOST_DEVICE void unpack_codes(const uint32_t* words, int64_t count, int bits, int8_t* codes) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = i * bits;
    const int shift = int(at & 31);
    uint32_t code = words[at >> 5] >> shift;
    if (shift + bits > 32) code |= words[(at >> 5) + 1] << (32 - shift);
    codes[i] = int8_t(int(code & ((1u << bits) - 1u)) - (1 << (bits - 1)));
  }
}

}  // namespace qat
