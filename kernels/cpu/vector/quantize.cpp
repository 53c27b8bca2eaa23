// Quantize, fake quantize, dequantize and the straight-through gradient, over segments of
// consecutive elements that share a scale. Scalar arithmetic is that of kernels/quant_math.h; the
// lanes here do the same operations in the same order.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

constexpr int kBatch = 16;  // segments whose grids are computed together, one a lane for mse

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

/// The extent where only the magnitude matters.
template <class T>
QAT_LANES_INLINE Extent symmetric_extent_of(const T* x, int64_t count) {
  Lanes size[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  over_lanes_in_fours(count, [&](int64_t i, auto part, int k) {
    size[k] = max_magnitude(size[k], abs(load(x + i, part)));
  });
  const float amax = largest_magnitude(
      max_magnitude(max_magnitude(size[0], size[1]), max_magnitude(size[2], size[3])));
  return {-amax, amax};
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

float peak(const void* x, DType type, int64_t count) {
  if (type == DType::f32) {
    const float* values = static_cast<const float*>(x);
    return peak_of(values, count, extent_of(values, count));
  }
  const BFloat16* values = static_cast<const BFloat16*>(x);
  return peak_of(values, count, extent_of(values, count));
}

// ScaleRule::mse. Errors are counted in units of the scale and multiplied by its square at the end;
// being estimates, they may use fused operations (the same on every instruction set).

/// A lower bound of the squared error that clipping alone costs; grows as the scale shrinks.
QAT_LANES_INLINE Lanes clipping_error(const QuantSpec& spec, Lanes low, Lanes high, Lanes scale) {
  const Lanes zero = all(0.0f);
  if (!spec.symmetric()) {
    const Lanes over = max((high - low) - all(float(spec.qmax() - spec.qmin())) * scale, zero);
    return all(0.5f) * over * over;
  }
  const Lanes above = high - all(float(spec.qmax())) * scale;
  const Lanes below = all(float(spec.qmin())) * scale - low;
  const Lanes over = max(max(above, below), zero);
  return over * over;
}

/// Adds the squared error, in units of the scale, of x on the grid.
QAT_LANES_INLINE Lanes add_error(Lanes errors, Lanes x, Lanes inverse, Lanes low, Lanes high) {
  // Adding 1.5 * 2^23 rounds to an integer; min and max work on the shifted value.
  const Lanes shifted = min(max(fused(x, inverse, all(0x1.8p23f)), low), high);
  const Lanes error = fused(x, inverse, all(0x1.8p23f) - shifted);
  return fused(error, error, errors);
}

/// Grids of up to sixteen segments, one a lane.
template <class T>
void best_grids_by_lane(const T* x, int64_t length, int segments, const QuantSpec& spec,
                        float* scale_out, float* zero_out) {
  constexpr int64_t kLongest = 256;
  alignas(64) float columns[kLongest * 16];
  for (int segment = 0; segment < 16; ++segment)
    for (int64_t i = 0; i < length; ++i)
      columns[i * 16 + segment] = segment < segments ? to_float(x[segment * length + i]) : 0.0f;
  Lanes low = all(0.0f), high = all(0.0f), size = all(0.0f);
  for (int64_t i = 0; i < length; ++i) {
    const Lanes value = load(columns + i * 16);
    low = min(value, low);
    high = max(value, high);
    size = max_magnitude(size, abs(value));
  }
  alignas(64) float lows[16], highs[16], sizes[16], raws[16], scales[16], zeros[16];
  store(lows, low);
  store(highs, high);
  store(sizes, size);
  for (int lane = 0; lane < 16; ++lane) {
    if (is_nan(sizes[lane])) lows[lane] = highs[lane] = sizes[lane];
    raws[lane] = raw_scale(spec, {lows[lane], highs[lane]}, 0.0f);
  }
  Lanes best_error = all(0.0f), best_scale = all(0.0f), best_zero = all(0.0f);
  for (int step = 0; step < kShrinkSteps; ++step) {
    for (int lane = 0; lane < 16; ++lane) {
      const Grid grid = make_grid(spec, {lows[lane], highs[lane]}, raws[lane] * shrink_ratio(step));
      scales[lane] = grid.scale;
      zeros[lane] = grid.zero;
    }
    const Lanes scale = load(scales), zero = load(zeros), inverse = all(1.0f) / scale;
    if (step > 0) {
      // 1.00001: rounding of the sums must not make the bound exceed what it bounds.
      const Lanes bound = clipping_error(spec, low, high, scale);
      if (!any(less(bound, best_error * all(1.00001f)))) break;
    }
    const Lanes first = all(0x1.8p23f + float(spec.qmin())) - zero;
    const Lanes last = all(0x1.8p23f + float(spec.qmax())) - zero;
    Lanes errors[2] = {all(0.0f), all(0.0f)};
    int64_t i = 0;
    for (; i + 2 <= length; i += 2) {
      errors[0] = add_error(errors[0], load(columns + i * 16), inverse, first, last);
      errors[1] = add_error(errors[1], load(columns + i * 16 + 16), inverse, first, last);
    }
    if (i < length) errors[0] = add_error(errors[0], load(columns + i * 16), inverse, first, last);
    const Lanes error = (errors[0] + errors[1]) * (scale * scale);
    if (step == 0) {
      best_error = error;
      best_scale = scale;
      best_zero = zero;
    } else {
      const Mask better = less(error, best_error);
      best_error = select(better, error, best_error);
      best_scale = select(better, scale, best_scale);
      best_zero = select(better, zero, best_zero);
    }
  }
  store(scales, best_scale);
  store(zeros, best_zero);
  for (int segment = 0; segment < segments; ++segment) {
    scale_out[segment] = scales[segment];
    zero_out[segment] = zeros[segment];
  }
}

template <class T>
float error_on(const T* x, int64_t count, const QuantSpec& spec, Grid grid) {
  const Lanes inverse = all(1.0f / grid.scale);
  const Lanes first = all((0x1.8p23f + float(spec.qmin())) - grid.zero);
  const Lanes last = all((0x1.8p23f + float(spec.qmax())) - grid.zero);
  Lanes errors[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  over_lanes_in_fours(count, [&](int64_t i, auto part, int k) {
    errors[k] = add_error(errors[k], load(x + i, part), inverse, first, last);
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

/// The grid of one long segment.
template <class T>
Grid best_grid(const T* x, int64_t length, const QuantSpec& spec) {
  const Extent extent = extent_of(x, length);
  const float raw = raw_scale(spec, extent, 0.0f);
  Grid best = make_grid(spec, extent, raw);
  float best_error = error_on(x, length, spec, best);
  for (int step = 1; step < kShrinkSteps; ++step) {
    const Grid grid = make_grid(spec, extent, raw * shrink_ratio(step));
    const Lanes bound = clipping_error(spec, all(extent.low), all(extent.high), all(grid.scale));
    if (!any(less(bound, all(best_error * 1.00001f)))) break;
    const float error = error_on(x, length, spec, grid);
    if (!(error < best_error)) continue;
    best_error = error;
    best = grid;
  }
  return best;
}

/// Grids of up to kBatch segments.
template <class T>
QAT_LANES_INLINE void compute_grids(const T* x, int64_t length, int segments, const QuantSpec& spec,
                                    float* scale, float* zero) {
  const ScaleRule rule = effective_rule(spec);
  if (rule == ScaleRule::mse) {
    if (length <= 256) return best_grids_by_lane(x, length, segments, spec, scale, zero);
    for (int s = 0; s < segments; ++s) {
      const Grid grid = best_grid(x + s * length, length, spec);
      scale[s] = grid.scale;
      zero[s] = grid.zero;
    }
    return;
  }
  const bool magnitude_only = rule == ScaleRule::amax || rule == ScaleRule::half_range;
  for (int s = 0; s < segments; ++s) {
    const T* values = x + s * length;
    const Extent extent =
        magnitude_only ? symmetric_extent_of(values, length) : extent_of(values, length);
    const float top = rule == ScaleRule::signed_max ? peak_of(values, length, extent) : 0.0f;
    const Grid grid = make_grid(spec, extent, raw_scale(spec, extent, top));
    scale[s] = grid.scale;
    zero[s] = grid.zero;
  }
}

QAT_LANES_INLINE Lanes codes_of(Lanes x, Lanes inverse, Lanes zero, Lanes low, Lanes high) {
  return min(max(round_even(x * inverse) + zero, low), high);
}

/// What is stored of a code: itself, or the value it stands for.
QAT_LANES_INLINE void store_result(int8_t* y, Lanes code, Lanes, Lanes, auto part) {
  store(y, code, part);
}
template <class T>
QAT_LANES_INLINE void store_result(T* y, Lanes code, Lanes zero, Lanes scale, auto part) {
  store(y, (code - zero) * scale, part);
}

template <class From, class To>
void quantize_segments(const SegmentJob& job) {
  const From* x = static_cast<const From*>(job.x);
  To* y = static_cast<To*>(job.y);
  const int64_t length = job.length;
  const Lanes low = all(float(job.spec.qmin())), high = all(float(job.spec.qmax()));
  float scales[kBatch], zeros[kBatch];
  for (int64_t start = 0; start < job.segments; start += kBatch) {
    const int batch = int(job.segments - start < kBatch ? job.segments - start : kBatch);
    if (job.given_scale != nullptr) {
      for (int s = 0; s < batch; ++s) {
        scales[s] = job.given_scale[start + s];
        zeros[s] = job.given_zero != nullptr ? job.given_zero[start + s] : 0.0f;
      }
    } else {
      compute_grids(x, length, batch, job.spec, scales, zeros);
    }
    for (int s = 0; s < batch; ++s, x += length) {
      if (job.scale != nullptr) job.scale[start + s] = scales[s];
      if (job.zero != nullptr) job.zero[start + s] = zeros[s];
      if (y == nullptr) continue;
      const Lanes inverse = all(1.0f / scales[s]), zero = all(zeros[s]), scale = all(scales[s]);
      over_lanes(length, [=](int64_t i, auto part) {
        store_result(y + i, codes_of(load(x + i, part), inverse, zero, low, high), zero, scale,
                     part);
      });
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

template <class T>
void dequantize_segments(const DequantizeJob& job) {
  const int8_t* codes = job.codes;
  T* y = static_cast<T*>(job.y);
  for (int64_t s = 0; s < job.segments; ++s, codes += job.length, y += job.length) {
    const Lanes scale = all(job.scale[s]);
    const Lanes zero = all(job.zero != nullptr ? job.zero[s] : 0.0f);
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
  const Lanes low = all(float(job.spec.qmin())), high = all(float(job.spec.qmax()));
  for (int64_t s = 0; s < job.segments; ++s, x += length, dy += length, dx += length) {
    const Lanes inverse = all(1.0f / job.scale[s]);
    const Lanes zero = all(job.zero != nullptr ? job.zero[s] : 0.0f);
    over_lanes(length, [=](int64_t i, auto part) {
      const Lanes position = round_even(load(x + i, part) * inverse) + zero;
      const Mask inside = both(at_least(position, low), at_least(high, position));
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
  table.peak = peak;
  table.quantize = quantize;
  table.grid_errors = grid_errors;
  table.dequantize = dequantize;
  table.gradient = gradient;
}

}  // namespace qat::cpu::QAT_LANES
