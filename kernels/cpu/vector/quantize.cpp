// Quantize, fake quantize, dequantize and the straight-through gradient, over segments of
// consecutive elements that share a scale. Scalar arithmetic is that of kernels/quant_math.h; the
// lanes here do the same operations in the same order.
#include "kernels/cpu/vector/lane_grids.h"
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/super_blocks.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

constexpr int kBatch = 16;          // short segments whose grids are computed together, one a lane
constexpr int64_t kShortest = 256;  // longer segments are searched one by one

template <class T>
QAT_LANES_INLINE Extent extent_of(const T* x, int64_t count) {
  Lanes low = all(0.0f), high = all(0.0f), size = all(0.0f);
  over_lanes(count, [&](int64_t i, auto part) {
    const Lanes value = load(x + i, part);
    low = min(value, low);
    high = max(value, high);
    size = max_magnitude(size, abs(value));
  });
  const float largest_size = largest_magnitude(size);
  if (is_nan(largest_size)) return {largest_size, largest_size};
  return {smallest(low), largest(high)};
}

template <class T>
QAT_LANES_INLINE Extent bare_extent_of(const T* x, int64_t count) {
  const float infinity = float_of(0x7F800000u);
  Lanes low = all(infinity), high = all(-infinity), size = all(0.0f);
  const int64_t whole = count / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    const Lanes value = load(x + i);
    low = min(value, low);
    high = max(value, high);
    size = max_magnitude(size, abs(value));
  }
  float size_of_rest = 0.0f, low_of_rest = infinity, high_of_rest = -infinity;
  for (int64_t i = whole; i < count; ++i) {
    const float value = to_float(x[i]);
    if (is_nan(value)) size_of_rest = value;
    low_of_rest = smaller(value, low_of_rest);
    high_of_rest = larger(value, high_of_rest);
  }
  const float largest_size = largest_magnitude(size);
  if (is_nan(size_of_rest)) return {size_of_rest, size_of_rest};
  if (is_nan(largest_size)) return {largest_size, largest_size};
  return {smaller(smallest(low), low_of_rest), larger(largest(high), high_of_rest)};
}

QAT_LANES_INLINE float amax_of(const float* x, int64_t count) {
  Lanes size[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  over_lanes_in_fours(count, [&](int64_t i, auto part, int k) {
    size[k] = max_magnitude(size[k], abs(load(x + i, part)));
  });
  return largest_magnitude(
      max_magnitude(max_magnitude(size[0], size[1]), max_magnitude(size[2], size[3])));
}
QAT_LANES_INLINE float amax_of(const BFloat16* x, int64_t count) {
  const int64_t whole = count / 16 * 16;
  float amax = amax_of_sixteens(x, whole);
  for (int64_t i = whole; i < count; ++i) {
    const float size = magnitude(to_float(x[i]));
    amax = bits_of(size) > bits_of(amax) ? size : amax;
  }
  return amax;
}

template <class T>
QAT_LANES_INLINE float peak_of(const T* x, int64_t count, Extent extent) {
  if (is_nan(extent.high)) return extent.high;
  if (-extent.low != extent.high) return -extent.low > extent.high ? extent.low : extent.high;
  for (int64_t i = 0; i < count; ++i)
    if (magnitude(to_float(x[i])) == extent.high) return to_float(x[i]);
  return 0.0f;
}

Extent extent(const void* x, DType type, int64_t count) {
  return type == DType::f32 ? extent_of(static_cast<const float*>(x), count)
                            : extent_of(static_cast<const BFloat16*>(x), count);
}

Extent bare_extent(const void* x, DType type, int64_t count) {
  return type == DType::f32 ? bare_extent_of(static_cast<const float*>(x), count)
                            : bare_extent_of(static_cast<const BFloat16*>(x), count);
}

float peak(const void* x, DType type, int64_t count) {
  if (type == DType::f32) {
    const float* values = static_cast<const float*>(x);
    return peak_of(values, count, extent_of(values, count));
  }
  const BFloat16* values = static_cast<const BFloat16*>(x);
  return peak_of(values, count, extent_of(values, count));
}

/// The codes of a grid moved by 1.5 * 2^23 and by the zero point: adding kShift to x / scale rounds
/// it, and min and max work on the moved value.
struct ShiftedRange {
  Lanes low, high;
};

QAT_LANES_INLINE ShiftedRange shifted_range(const QuantSpec& spec, Lanes zero) {
  return {all(kShift + float(spec.qmin())) - zero, all(kShift + float(spec.qmax())) - zero};
}

/// kShift + code - zero.
QAT_LANES_INLINE Lanes shifted_code(Lanes x, Lanes inverse, ShiftedRange range) {
  return min(max(x * inverse + all(kShift), range.low), range.high);
}

// The search for the scale of least squared error. Errors are counted in units of the scale and
// multiplied by its square at the end; being estimates, they may use fused operations (the same on
// every instruction set).

/// A lower bound of the squared error that clipping alone costs; grows as the scale shrinks.
QAT_LANES_INLINE Lanes clipping_error(const QuantSpec& spec, LaneExtent extent, Lanes scale) {
  const Lanes zero = all(0.0f), size = abs(scale);
  if (!spec.symmetric()) {
    const Lanes covered = all(float(spec.qmax() - spec.qmin())) * size;
    const Lanes over = max((extent.high - extent.low) - covered, zero);
    return all(0.5f) * over * over;
  }
  if (spec.range == Range::stretched) {
    const Lanes reach = max(negated(extent.low), extent.high) + all(stretched_low(spec)) * size;
    const Lanes over = max(reach, zero);
    return over * over;
  }
  const Mask negative = less(scale, zero);
  const Lanes low = select(negative, negated(extent.high), extent.low);
  const Lanes high = select(negative, negated(extent.low), extent.high);
  const Lanes above = high - all(float(spec.qmax())) * size;
  const Lanes below = all(float(spec.qmin())) * size - low;
  const Lanes over = max(max(above, below), zero);
  return over * over;
}

/// Adds the squared error, in units of the scale, of x on the grid.
QAT_LANES_INLINE Lanes add_error(Lanes errors, Lanes x, Lanes inverse, ShiftedRange range) {
  const Lanes code = min(max(fused(x, inverse, all(kShift)), range.low), range.high);
  const Lanes error = fused(x, inverse, all(kShift) - code);
  return fused(error, error, errors);
}

/// Where x / scale counts from for add_error: the lowest level of a stretched range.
QAT_LANES_INLINE Lanes add_error(Lanes errors, Lanes x, Lanes inverse, ShiftedRange range,
                                 Lanes lowest) {
  const Lanes position = fused(x, inverse, lowest);
  const Lanes code = min(max(position + all(kShift), range.low), range.high) - all(kShift);
  const Lanes error = position - code;
  return fused(error, error, errors);
}

/// Squared errors of sixteen segments, one a lane, columns[i] holding element i of each.
QAT_LANES_INLINE Lanes column_errors(const float* columns, int64_t length, const QuantSpec& spec,
                                     LaneGrid grid) {
  const Lanes inverse = all(1.0f) / grid.scale;
  const ShiftedRange range = shifted_range(spec, grid.zero);
  Lanes errors[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  int64_t i = 0;
  if (spec.range == Range::stretched) {
    const Lanes lowest = all(-stretched_low(spec));
    for (; i < length; ++i)
      errors[i % 4] = add_error(errors[i % 4], load(columns + i * 16), inverse, range, lowest);
  }
  for (; i + 4 <= length; i += 4) {
    errors[0] = add_error(errors[0], load(columns + i * 16), inverse, range);
    errors[1] = add_error(errors[1], load(columns + i * 16 + 16), inverse, range);
    errors[2] = add_error(errors[2], load(columns + i * 16 + 32), inverse, range);
    errors[3] = add_error(errors[3], load(columns + i * 16 + 48), inverse, range);
  }
  for (; i < length; ++i) errors[0] = add_error(errors[0], load(columns + i * 16), inverse, range);
  return ((errors[0] + errors[1]) + (errors[2] + errors[3])) * (grid.scale * grid.scale);
}

// Rounding of sums must not make a bound exceed what it bounds.
constexpr float kBoundMargin = 1.00001f;

/// Searched grids of up to sixteen short segments, one a lane.
template <class T>
QAT_LANES_SHARED LaneGrid best_grids(const T* x, int64_t length, int segments,
                                     const QuantSpec& spec) {
  alignas(64) float columns[kShortest * 16];
  fill_columns(x, length, segments, columns);
  LaneExtent extent = {all(0.0f), all(0.0f)};
  Lanes size = all(0.0f);
  for (int64_t i = 0; i < length; ++i) {
    const Lanes value = load(columns + i * 16);
    extent.low = min(value, extent.low);
    extent.high = max(value, extent.high);
    size = max_magnitude(size, abs(value));
  }
  extent = {keep_nan(size, extent.low), keep_nan(size, extent.high)};
  Lanes raw = raw_scale(spec, extent, all(0.0f));
  LaneGrid best = make_grid(spec, extent, raw);
  Lanes best_error = column_errors(columns, length, spec, best);
  for (int step = 1; step < kShrinkSteps; ++step) {
    raw = raw * all(kShrink);
    const LaneGrid grid = make_grid(spec, extent, raw);
    const Lanes bound = clipping_error(spec, extent, grid.scale);
    if (!any(less(bound, best_error * all(kBoundMargin)))) break;
    const Lanes error = column_errors(columns, length, spec, grid);
    const Mask better = less(error, best_error);
    best_error = select(better, error, best_error);
    best.scale = select(better, grid.scale, best.scale);
    best.zero = select(better, grid.zero, best.zero);
    best.inverse = select(better, grid.inverse, best.inverse);
  }
  if (spec.range == Range::stretched) best.minimum = all(stretched_low(spec)) * best.scale;
  return best;
}

template <class T>
QAT_LANES_SHARED float error_on(const T* x, int64_t count, const QuantSpec& spec, Grid grid) {
  const Lanes inverse = all(1.0f / grid.scale);
  const ShiftedRange range = shifted_range(spec, all(grid.zero));
  Lanes errors[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  if (spec.range == Range::stretched) {
    // No level is 0, so lanes that are not there would count.
    const Lanes lowest = all(-stretched_low(spec));
    const int64_t whole = count / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16)
      errors[i / 16 % 4] = add_error(errors[i / 16 % 4], load(x + i), inverse, range, lowest);
    float rest = 0.0f;
    for (int64_t i = whole; i < count; ++i) {
      const float position = to_float(x[i]) * (1.0f / grid.scale) - stretched_low(spec);
      const float bounded = smaller(larger(position, -0x1p22f), 0x1p22f);
      const float nearest = (bounded + kShift) - kShift;
      const float top = float(spec.qmax() - spec.qmin());
      const float error = position - smaller(larger(nearest, 0.0f), top);
      rest = rest + error * error;
    }
    return (sum(errors) + rest) * (grid.scale * grid.scale);
  }
  over_lanes_in_fours(count, [&](int64_t i, auto part, int k) {
    errors[k] = add_error(errors[k], load(x + i, part), inverse, range);
  });
  return sum(errors) * (grid.scale * grid.scale);
}

void grid_errors(const void* x, DType type, int64_t count, const QuantSpec& spec, const Grid* grids,
                 int grid_count, float* errors) {
  for (int i = 0; i < grid_count; ++i)
    errors[i] = type == DType::f32
                    ? error_on(static_cast<const float*>(x), count, spec, grids[i])
                    : error_on(static_cast<const BFloat16*>(x), count, spec, grids[i]);
}

/// The searched grid of one long segment.
template <class T>
QAT_LANES_SHARED Grid best_grid(const T* x, int64_t length, const QuantSpec& spec) {
  const Extent extent = extent_of(x, length);
  const LaneExtent extents = {all(extent.low), all(extent.high)};
  float raw = raw_scale(spec, extent, 0.0f);
  Grid best = make_grid(spec, extent, raw);
  float best_error = error_on(x, length, spec, best);
  for (int step = 1; step < kShrinkSteps; ++step) {
    raw = raw * kShrink;
    const Grid grid = make_grid(spec, extent, raw);
    const Lanes bound = clipping_error(spec, extents, all(grid.scale));
    if (!any(less(bound, all(best_error * kBoundMargin)))) break;
    const float error = error_on(x, length, spec, grid);
    if (!(error < best_error)) continue;
    best_error = error;
    best = grid;
  }
  return best;
}

struct Measure {
  Extent extent;
  float peak;
};

/// What a scale rule that does not search needs to know of a segment.
template <class T>
QAT_LANES_INLINE Measure measure(const T* x, int64_t length, const QuantSpec& spec) {
  const ScaleRule rule = effective_rule(spec);
  if (rule == ScaleRule::amax || rule == ScaleRule::half_range) {
    const float amax = amax_of(x, length);
    return {{-amax, amax}, 0.0f};
  }
  if (spec.has_minimum()) return {bare_extent_of(x, length), 0.0f};
  const Extent extent = extent_of(x, length);
  return {extent, rule == ScaleRule::signed_max ? peak_of(x, length, extent) : 0.0f};
}

/// Grids of up to kBatch short segments.
template <class T>
QAT_LANES_SHARED LaneGrid short_grids(const T* x, int64_t length, int segments,
                                      const QuantSpec& spec) {
  if (spec.in_super_blocks()) return super_grids(x, segments, spec);
  const ScaleRule rule = effective_rule(spec);
  if (is_searched(rule)) return best_grids(x, length, segments, spec);
  alignas(64) float low[16] = {}, high[16] = {}, peak[16] = {};
  for (int s = 0; s < segments; ++s) {
    const Measure measured = measure(x + s * length, length, spec);
    low[s] = measured.extent.low;
    high[s] = measured.extent.high;
    peak[s] = measured.peak;
  }
  const LaneExtent extent = {load(low), load(high)};
  return make_grid(spec, extent, raw_scale(spec, extent, load(peak)));
}

/// A grid and what finds its codes.
struct Coder {
  Grid grid;
  float inverse;
};

template <class T>
QAT_LANES_SHARED Coder long_grid(const T* x, int64_t length, const QuantSpec& spec) {
  if (is_searched(effective_rule(spec))) {
    const Grid grid = best_grid(x, length, spec);
    return {grid, 1.0f / grid.scale};
  }
  const Measure measured = measure(x, length, spec);
  const float raw = raw_scale(spec, measured.extent, measured.peak);
  const Grid grid = make_grid(spec, measured.extent, raw);
  return {grid, inverse_scale(spec, raw, grid.scale)};
}

/// Codes of one segment.
template <class From>
QAT_LANES_INLINE void write_segment(const From* x, int8_t* y, int64_t length, const QuantSpec& spec,
                                    Coder coder) {
  if (spec.form == Form::e4m3) {
    for (int64_t i = 0; i < length; ++i) y[i] = int8_t(e4m3_code(to_float(x[i]) * coder.inverse));
    return;
  }
  const Lanes inverse = all(coder.inverse), zero = all(coder.grid.zero);
  const Lanes minimum = all(coder.grid.minimum);
  const ShiftedRange range = shifted_range(spec, zero);
  if (spec.counts_from_minimum()) {
    over_lanes(length, [=](int64_t i, auto part) {
      const Lanes code = shifted_code(load(x + i, part) - minimum, inverse, range);
      store_shifted(y + i, code + zero, part);
    });
    return;
  }
  over_lanes(length, [=](int64_t i, auto part) {
    store_shifted(y + i, shifted_code(load(x + i, part), inverse, range) + zero, part);
  });
}

/// Values of one segment.
template <class From, class To>
QAT_LANES_INLINE void write_segment(const From* x, To* y, int64_t length, const QuantSpec& spec,
                                    Coder coder) {
  const Lanes scale = all(coder.grid.scale);
  if (is_nan(coder.grid.scale)) {
    over_lanes(length, [=](int64_t i, auto part) { store(y + i, scale, part); });
    return;
  }
  const Lanes inverse = all(coder.inverse), minimum = all(coder.grid.minimum);
  if (spec.form == Form::e4m3) {
    over_lanes(length, [=](int64_t i, auto part) {
      store_number(y + i, round_e4m3(load(x + i, part) * inverse) * scale, part);
    });
    return;
  }
  const ShiftedRange range = shifted_range(spec, all(coder.grid.zero));
  if (spec.counts_from_minimum()) {
    over_lanes(length, [=](int64_t i, auto part) {
      const Lanes code = shifted_code(load(x + i, part) - minimum, inverse, range) - all(kShift);
      store_number(y + i, code * scale + minimum, part);
    });
    return;
  }
  over_lanes(length, [=](int64_t i, auto part) {
    const Lanes code = shifted_code(load(x + i, part), inverse, range) - all(kShift);
    store_number(y + i, code * scale, part);
  });
}

template <class From, class To>
void quantize_segments(const SegmentJob& job) {
  const From* x = static_cast<const From*>(job.x);
  To* y = static_cast<To*>(job.y);
  const int64_t length = job.length;
  const int most = length <= kShortest ? kBatch : 1;
  const QuantSpec& spec = job.spec;
  alignas(64) float scales[kBatch], zeros[kBatch], minima[kBatch], inverses[kBatch];
  for (int64_t start = 0; start < job.segments; start += most) {
    const int batch = int(job.segments - start < most ? job.segments - start : most);
    if (job.given_scale != nullptr) {
      for (int s = 0; s < batch; ++s) {
        const float second = job.given_zero != nullptr ? job.given_zero[start + s] : 0.0f;
        const Grid grid = stored_grid(spec, job.given_scale[start + s], second);
        scales[s] = grid.scale;
        zeros[s] = grid.zero;
        minima[s] = grid.minimum;
        inverses[s] =
            job.given_inverse != nullptr ? job.given_inverse[start + s] : 1.0f / grid.scale;
      }
    } else if (most > 1) {
      const LaneGrid grids = short_grids(x, length, batch, spec);
      store(scales, grids.scale);
      store(zeros, grids.zero);
      store(minima, grids.minimum);
      store(inverses, grids.inverse);
    } else {
      const Coder coder = long_grid(x, length, spec);
      scales[0] = coder.grid.scale;
      zeros[0] = coder.grid.zero;
      minima[0] = coder.grid.minimum;
      inverses[0] = coder.inverse;
    }
    for (int s = 0; s < batch; ++s, x += length) {
      const Grid grid = {scales[s], zeros[s], minima[s]};
      if (job.scale != nullptr) job.scale[start + s] = grid.scale;
      if (job.zero != nullptr) job.zero[start + s] = second_of(spec, grid);
      if (y == nullptr) continue;
      write_segment(x, y, length, spec, {grid, inverses[s]});
      y += length;
    }
  }
}

template <class From>
void quantize_from(const SegmentJob& job) {
  if (job.y_type == DType::i8)
    quantize_segments<From, int8_t>(job);
  else if (job.y_type == DType::f32)
    quantize_segments<From, float>(job);
  else
    quantize_segments<From, BFloat16>(job);
}

void quantize(const SegmentJob& job) {
  if (job.x_type == DType::f32)
    quantize_from<float>(job);
  else
    quantize_from<BFloat16>(job);
}

/// The numbers of e4m3 codes.
QAT_LANES_INLINE Lanes load_numbers(const float* numbers, const int8_t* codes, Whole) {
  return gather(numbers, reinterpret_cast<const uint8_t*>(codes));
}
QAT_LANES_INLINE Lanes load_numbers(const float* numbers, const int8_t* codes, Part part) {
  uint8_t buffer[16] = {};
  for (int i = 0; i < part.count; ++i) buffer[i] = uint8_t(codes[i]);
  return gather(numbers, buffer);
}

template <class T>
void dequantize_segments(const DequantizeJob& job) {
  const int8_t* codes = job.codes;
  T* y = static_cast<T*>(job.y);
  if (job.spec.form == Form::e4m3) {
    float numbers[256];
    for (int i = 0; i < 256; ++i) numbers[i] = e4m3_value(uint8_t(i));
    for (int64_t s = 0; s < job.segments; ++s, codes += job.length, y += job.length) {
      const Lanes scale = all(job.scale[s]);
      over_lanes(job.length, [=, &numbers](int64_t i, auto part) {
        store(y + i, load_numbers(numbers, codes + i, part) * scale, part);
      });
    }
    return;
  }
  for (int64_t s = 0; s < job.segments; ++s, codes += job.length, y += job.length) {
    const Grid grid = stored_grid(job.spec, job.scale[s], job.zero != nullptr ? job.zero[s] : 0.0f);
    const Lanes scale = all(grid.scale), zero = all(grid.zero), minimum = all(grid.minimum);
    if (job.spec.counts_from_minimum()) {
      over_lanes(job.length, [=](int64_t i, auto part) {
        store(y + i, (load(codes + i, part) - zero) * scale + minimum, part);
      });
      continue;
    }
    over_lanes(job.length, [=](int64_t i, auto part) {
      store(y + i, (load(codes + i, part) - zero) * scale, part);
    });
  }
}

void dequantize(const DequantizeJob& job) {
  if (job.y_type == DType::f32)
    dequantize_segments<float>(job);
  else
    dequantize_segments<BFloat16>(job);
}

template <class X, class Upstream, class Gradient>
void gradient_segments(const GradientJob& job) {
  const X* x = static_cast<const X*>(job.x);
  const Upstream* dy = static_cast<const Upstream*>(job.dy);
  Gradient* dx = static_cast<Gradient*>(job.dx);
  const int64_t length = job.length;
  for (int64_t s = 0; s < job.segments; ++s, x += length, dy += length, dx += length) {
    const Grid grid = stored_grid(job.spec, job.scale[s], job.zero != nullptr ? job.zero[s] : 0.0f);
    const Lanes inverse = all(1.0f / grid.scale), minimum = all(grid.minimum);
    if (job.spec.form == Form::e4m3) {
      over_lanes(length, [=](int64_t i, auto part) {
        const Lanes size = abs(load(x + i, part) * inverse);
        store(dx + i, select(at_least(all(kEndE4m3), size), load(dy + i, part), all(0.0f)), part);
      });
      continue;
    }
    const ShiftedRange range = shifted_range(job.spec, all(grid.zero));
    over_lanes(length, [=](int64_t i, auto part) {
      const Lanes position = (load(x + i, part) - minimum) * inverse + all(kShift);
      const Mask inside = both(at_least(position, range.low), at_least(range.high, position));
      store(dx + i, select(inside, load(dy + i, part), all(0.0f)), part);
    });
  }
}

template <class X, class Upstream>
void gradient_into(const GradientJob& job) {
  if (job.dx_type == DType::f32)
    gradient_segments<X, Upstream, float>(job);
  else
    gradient_segments<X, Upstream, BFloat16>(job);
}

template <class X>
void gradient_of(const GradientJob& job) {
  if (job.dy_type == DType::f32)
    gradient_into<X, float>(job);
  else
    gradient_into<X, BFloat16>(job);
}

void gradient(const GradientJob& job) {
  if (job.x_type == DType::f32)
    gradient_of<float>(job);
  else
    gradient_of<BFloat16>(job);
}

}  // namespace

void fill_quantize(VectorKernels& table) {
  table.extent = extent;
  table.bare_extent = bare_extent;
  table.peak = peak;
  table.quantize = quantize;
  table.grid_errors = grid_errors;
  table.dequantize = dequantize;
  table.gradient = gradient;
}

}  // namespace qat::cpu::QAT_LANES
