// How one tensor is quantized. The grid is value = (code - zero) * scale, or counted from a real
// minimum (Range::minimum, Range::stretched); a "row" is an output channel of a weight [O, C] or a
// token of an activation [T, C], so one description serves both.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace qat {

/// Which elements share a scale.
enum class Per : uint8_t {
  tensor,  ///< the whole tensor
  row,     ///< output channel of a weight, token of an activation
  group    ///< `group` consecutive elements of a row
};

/// Which codes are used (b bits, codes are signed).
enum class Range : uint8_t {
  strict,     ///< symmetric, [-(2^(b-1)-1), 2^(b-1)-1], zero point 0
  full,       ///< symmetric, [-2^(b-1), 2^(b-1)-1], zero point 0
  stretched,  ///< symmetric, [-2^(b-1), 2^(b-1)-1], value = (code + 1/2) * scale: no level is 0,
              ///< and as many lie on each side (ParetoQ; Liu et al., 2025)
  asymmetric,  ///< [-2^(b-1), 2^(b-1)-1] with a zero point in that range
  minimum      ///< [-2^(b-1), 2^(b-1)-1]; value = (code - qmin) * scale + minimum (ggml Q4_1)
};

/// How the scale of a dynamic (not calibrated) tensor follows from its values. An asymmetric range
/// knows min_max and mse; every other rule means min_max there. A range with a minimum knows
/// min_max, and does not widen it to hold 0. The stretched range knows amax and mse.
enum class ScaleRule : uint8_t {
  amax,        ///< max|x| / qmax. int8 strict: what vLLM computes. Stretched: max|x| / 2^(b-1)
  half_range,  ///< max|x| / ((qmax - qmin) / 2): amax/7.5, amax/127.5 (torchao, compressed-tensors)
  no_clip,     ///< max(max / qmax, min / qmin): nothing clips (torchao SYMMETRIC_NO_CLIPPING_ERR)
  signed_max,  ///< m / qmin with m the element of largest magnitude; may be negative (ggml Q4_0)
  min_max,     ///< asymmetric: (max - min) / (qmax - qmin), range widened to hold 0; symmetric:
               ///< no_clip
  mse,         ///< among shrunken no_clip (or min_max) scales, the one of least squared error
  mse_signed   ///< mse, the scale negative where that puts the larger end on qmin (full range)
};

/// The type the deployed file stores the scale in; scales are rounded to it before codes are
/// chosen.
enum class ScaleType : uint8_t {
  f32,
  bf16,
  f16,
  portable  ///< exact in f16 and in bf16 (8 significant bits, f16's exponent range)
};

/// What a scale below 0 means before it is rounded.
enum class NegativeScale : uint8_t {
  kept,
  zero  ///< LSQ: a step too far leaves the smallest scale instead of a mirrored grid
};

/// What values are divided by to find their codes.
enum class Division : uint8_t {
  stored,  ///< the scale as stored: the codes are the nearest on the grid that is deployed
  exact    ///< the scale before it was rounded: what ggml does to activations (quantize_row_q8_0)
};

/// What a code is, and what its scale is made of.
enum class Form : uint8_t {
  integer,  ///< an integer; each scale (and minimum) is a number of its own
  e4m3,     ///< the bits of a float8_e4m3fn (8 bits, up to 448); each scale is a number of its own
  q4_k,     ///< an integer; of 8 groups of 32, scales and minima are 6-bit multiples of two f16
            ///< numbers
  q6_k      ///< an integer; of 16 groups of 16, scales are 8-bit multiples of one f16 number
};

/// Elements of a row whose scales hang together (Form::q4_k, q6_k).
inline constexpr int kSuperBlock = 256;

struct QuantSpec {
  int bits = 8;  ///< 2..8
  Per per = Per::row;
  int group = 0;  ///< elements a group, when per == Per::group
  Range range = Range::strict;
  ScaleRule rule = ScaleRule::amax;
  ScaleType scale_type = ScaleType::f32;
  Division division = Division::stored;  ///< a searched or given scale is always the stored one
  Form form = Form::integer;

  QAT_HOST_DEVICE int qmin() const { return range == Range::strict ? -qmax() : -(1 << (bits - 1)); }
  QAT_HOST_DEVICE int qmax() const { return (1 << (bits - 1)) - 1; }
  /// One number a scale is all there is to store.
  QAT_HOST_DEVICE bool symmetric() const { return centered() || range == Range::stretched; }
  /// Values are multiples of the scale.
  QAT_HOST_DEVICE bool centered() const { return range == Range::strict || range == Range::full; }
  /// A minimum of its own is stored beside each scale.
  QAT_HOST_DEVICE bool has_minimum() const { return range == Range::minimum; }
  /// Codes count from the lowest level, a real number, whether that is stored or not.
  QAT_HOST_DEVICE bool counts_from_minimum() const {
    return has_minimum() || range == Range::stretched;
  }
  /// Scales are chosen for kSuperBlock elements together, by least squared error.
  QAT_HOST_DEVICE bool in_super_blocks() const { return form == Form::q4_k || form == Form::q6_k; }
  /// Elements that one choice of scales takes together, of a row of `cols`; a row is a multiple.
  QAT_HOST_DEVICE int64_t unit(int64_t cols) const {
    if (in_super_blocks()) return kSuperBlock;
    return per == Per::group ? group : cols;
  }
  /// Scales in one row of `cols` elements (Per::tensor counts 1 for the whole tensor).
  QAT_HOST_DEVICE int64_t groups(int64_t cols) const {
    return per == Per::group ? cols / group : 1;
  }
  /// True if a code can saturate although the scale was computed from these very (finite) values,
  /// so that the straight-through gradient may be 0 somewhere. False only where it never can: amax
  /// and no_clip with an f32 or bf16 scale (rounding to bf16 takes an end just short of half a code
  /// beyond its place), and half_range and signed_max of the strict range, where they are amax.
  /// f16 and portable scales end at 65504 and lose bits below 2^-14, unless the exact scale is
  /// divided by; the zero point of an asymmetric range (or the minimum) is rounded on its own and
  /// may push an end over the edge; mse clips on purpose.
  QAT_HOST_DEVICE bool can_clip() const {
    if (in_super_blocks()) return true;
    if (!centered() || rule == ScaleRule::mse || rule == ScaleRule::mse_signed) return true;
    const bool coarse = scale_type == ScaleType::f16 || scale_type == ScaleType::portable;
    if (coarse && division == Division::stored) return true;
    const bool halves = rule == ScaleRule::half_range || rule == ScaleRule::signed_max;
    return halves && range != Range::strict;
  }
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

/// The grids of ggml's Q4_K and Q6_K, whose rows are multiples of kSuperBlock.
QAT_HOST_DEVICE QuantSpec q4_k_grid() {
  return {
      4,         Per::group, 32, Range::minimum, ScaleRule::mse, ScaleType::f16, Division::stored,
      Form::q4_k};
}
QAT_HOST_DEVICE QuantSpec q6_k_grid() {
  return {6,
          Per::group,
          16,
          Range::full,
          ScaleRule::mse_signed,
          ScaleType::f16,
          Division::stored,
          Form::q6_k};
}

}  // namespace qat
