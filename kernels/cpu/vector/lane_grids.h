// The scale rules of kernels/quant_math.h for sixteen segments at once, one a lane, with the same
// results to the bit.
#pragma once

#include "kernels/cpu/vector/lanes.h"
#include "kernels/quant_math.h"

namespace qat::cpu::QAT_LANES {

struct LaneExtent {
  Lanes low, high;
};

struct LaneGrid {
  Lanes scale, zero, minimum;
  Lanes inverse;  ///< of inverse_scale
};

QAT_LANES_INLINE Lanes negated(Lanes a) {
  return all(0.0f) - a;
}

QAT_LANES_INLINE LaneExtent finite_extent(LaneExtent extent) {
  return {max(all(-kLargestFloat), extent.low), min(all(kLargestFloat), extent.high)};
}

QAT_LANES_INLINE Lanes stored_size(Lanes size, ScaleType type) {
  switch (type) {
    case ScaleType::f32:
      return min(all(kLargestFloat), size);
    case ScaleType::bf16:
      return round_mantissa(min(all(0x1.FEp127f), size), 16);
    case ScaleType::f16:
    case ScaleType::portable: {
      const bool portable = type == ScaleType::portable;
      const Lanes bounded = min(all(portable ? 65280.0f : 65504.0f), size);
      const Lanes rounded = round_mantissa(bounded, portable ? 16 : 13);
      // Below 2^-14 f16 has units of 2^-24.
      const Lanes source = portable ? rounded : bounded;
      const Lanes subnormal = (source + all(0.5f)) - all(0.5f);
      return select(less(source, all(0x1p-14f)), subnormal, rounded);
    }
  }
  return size;
}

QAT_LANES_INLINE Lanes stored_scale(Lanes scale, ScaleType type) {
  const bool half = type == ScaleType::f16 || type == ScaleType::portable;
  Lanes size = stored_size(abs(scale), type);
  size = select(less(size, all(half ? 0x1p-24f : kSmallestNormal)),
                all(half ? 0x1p-14f : kSmallestNormal), size);
  return keep_nan(scale, select(less(scale, all(0.0f)), negated(size), size));
}

QAT_LANES_INLINE Lanes stored_minimum(Lanes minimum, ScaleType type) {
  const Lanes size = stored_size(abs(minimum), type);
  return select(less(minimum, all(0.0f)), negated(size), size);
}

QAT_LANES_INLINE Lanes zero_point(const QuantSpec& spec, LaneExtent extent, Lanes scale) {
  if (spec.range != Range::asymmetric) return all(0.0f);
  const Lanes low = all(float(spec.qmin())), high = all(float(spec.qmax()));
  const Lanes steps = finite_extent(extent).low / scale;
  const Lanes bounded = min(max(steps, all(-0x1p22f)), all(0x1p22f));
  const Lanes zero = low - ((bounded + all(kShift)) - all(kShift));
  const Mask number = at_least(scale, all(-kLargestFloat));
  return select(number, min(max(zero, low), high), all(0.0f));
}

QAT_LANES_INLINE Lanes raw_scale(const QuantSpec& spec, LaneExtent extent, Lanes peak) {
  const Lanes low = all(float(spec.qmin())), high = all(float(spec.qmax()));
  const LaneExtent finite = finite_extent(extent);
  if (spec.form == Form::e4m3) return max(negated(finite.low), finite.high) / all(kLargestE4m3);
  if (spec.range == Range::stretched) return max(negated(finite.low), finite.high) / negated(low);
  const ScaleRule rule = effective_rule(spec);
  const Lanes range = high - low;
  switch (rule) {
    case ScaleRule::amax:
      return max(negated(finite.low), finite.high) / high;
    case ScaleRule::half_range:
      return max(negated(finite.low), finite.high) / (range * all(0.5f));
    case ScaleRule::signed_max:
      return min(all(kLargestFloat), max(all(-kLargestFloat), peak)) / low;
    case ScaleRule::min_max:
      return (finite.high - finite.low) / range;
    case ScaleRule::mse_signed: {
      const Mask negative = less(negated(finite.low), finite.high);
      const Lanes bottom = select(negative, negated(finite.high), finite.low);
      const Lanes top = select(negative, negated(finite.low), finite.high);
      const Lanes size = max(bottom / low, top / high);
      return select(negative, negated(size), size);
    }
    case ScaleRule::mse:
      if (!spec.symmetric()) return (finite.high - finite.low) / range;
      break;
    case ScaleRule::no_clip:
      break;
  }
  return max(finite.low / low, finite.high / high);
}

QAT_LANES_INLINE LaneGrid make_grid(const QuantSpec& spec, LaneExtent extent, Lanes raw) {
  const Lanes scale = stored_scale(raw, spec.scale_type);
  Lanes divisor = scale;
  if (spec.division == Division::exact && !is_searched(effective_rule(spec)))
    divisor = select(less(abs(raw), all(kSmallestNormal)), scale, raw);
  const Lanes inverse = all(1.0f) / divisor;
  if (spec.range == Range::stretched)
    return {scale, all(float(spec.qmin())), all(stretched_low(spec)) * scale, inverse};
  if (!spec.has_minimum()) return {scale, zero_point(spec, extent, scale), all(0.0f), inverse};
  const Mask number = at_least(scale, all(-kLargestFloat));
  const Lanes low = select(number, finite_extent(extent).low, all(0.0f));
  return {scale, all(float(spec.qmin())), stored_minimum(low, spec.scale_type), inverse};
}

/// round_e4m3 of sixteen values.
QAT_LANES_INLINE Lanes round_e4m3(Lanes value) {
  const Lanes size = min(abs(value), all(kLargestE4m3));
  const Lanes small = (size + all(0x1p14f)) - all(0x1p14f);
  const Lanes rounded = select(less(size, all(0x1p-6f)), small, round_mantissa(size, 20));
  return keep_nan(value, with_sign(rounded, value));
}

/// Turns up to sixteen segments of `length` elements into columns, columns[i * 16 + s] being
/// element i of segment s; missing ones are 0.
template <class T>
QAT_LANES_INLINE void fill_columns(const T* x, int64_t length, int segments, float* columns) {
  const int64_t whole = segments == 16 ? length / 16 * 16 : 0;
  for (int64_t i = 0; i < whole; i += 16) transpose(x + i, length, columns + i * 16);
  for (int segment = 0; segment < 16; ++segment)
    for (int64_t i = whole; i < length; ++i)
      columns[i * 16 + segment] = segment < segments ? to_float(x[segment * length + i]) : 0.0f;
}

}  // namespace qat::cpu::QAT_LANES
