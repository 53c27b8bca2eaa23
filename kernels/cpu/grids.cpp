#include "kernels/cpu/grids.h"

#include <algorithm>
#include <array>

#include "kernels/cpu/parallel.h"

namespace qat::cpu {
namespace {

Extent tensor_extent(const ConstView& x, const QuantSpec& spec, const Stream& stream) {
  const auto extent = spec.has_minimum() ? vector_kernels().bare_extent : vector_kernels().extent;
  std::array<Extent, kChunks> parts;
  over_ranges(stream, kChunks, 1, x.count() / kChunks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Chunk chunk = chunk_of(x.count(), i);
      parts[size_t(i)] = extent(at(x, chunk.begin), x.dtype, chunk.end - chunk.begin);
    }
  });
  Extent all = extent(x.data, x.dtype, 0);
  for (const Extent& part : parts) {
    if (is_nan(part.high)) return part;
    all.low = smaller(part.low, all.low);
    all.high = larger(part.high, all.high);
  }
  return all;
}

/// The first element of largest magnitude, by the extent of the tensor.
float tensor_peak(const ConstView& x, Extent extent) {
  if (is_nan(extent.high)) return extent.high;
  if (-extent.low != extent.high) return -extent.low > extent.high ? extent.low : extent.high;
  return vector_kernels().peak(x.data, x.dtype, x.count());
}

Grid least_error_grid(const ConstView& x, const QuantSpec& spec, Extent extent,
                      const Stream& stream) {
  std::array<Grid, kShrinkSteps> grids;
  float raw = raw_scale(spec, extent, 0.0f);
  for (Grid& grid : grids) {
    grid = make_grid(spec, extent, raw);
    raw *= kShrink;
  }
  std::array<std::array<float, kShrinkSteps>, kChunks> errors{};
  over_ranges(
      stream, kChunks, 1, x.count() / kChunks * kShrinkSteps, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const Chunk chunk = chunk_of(x.count(), i);
          vector_kernels().grid_errors(at(x, chunk.begin), x.dtype, chunk.end - chunk.begin, spec,
                                       grids.data(), kShrinkSteps, errors[size_t(i)].data());
        }
      });
  std::array<double, kShrinkSteps> total{};
  for (const auto& part : errors)
    for (size_t step = 0; step < total.size(); ++step) total[step] += double(part[step]);
  size_t best = 0;
  for (size_t step = 1; step < total.size(); ++step)
    if (total[step] < total[best]) best = step;
  return grids[best];
}

}  // namespace

Chunk chunk_of(int64_t count, int64_t index) {
  const int64_t size = ((count + kChunks - 1) / kChunks + 63) / 64 * 64;
  return {std::min(count, index * size), std::min(count, (index + 1) * size)};
}

Segments segments_of(const ConstView& x, const QuantSpec& spec) {
  const int64_t length = spec.per == Per::group ? spec.group : x.cols();
  return {length > 0 ? x.count() / length : 0, length};
}

TensorGrid tensor_grid(const ConstView& x, const QuantSpec& spec, const Stream& stream) {
  const Extent extent = tensor_extent(x, spec, stream);
  const ScaleRule rule = effective_rule(spec);
  if (is_searched(rule)) {
    const Grid grid = least_error_grid(x, spec, extent, stream);
    return {grid, 1.0f / grid.scale};
  }
  const float peak = rule == ScaleRule::signed_max ? tensor_peak(x, extent) : 0.0f;
  const float raw = raw_scale(spec, extent, peak);
  const Grid grid = make_grid(spec, extent, raw);
  return {grid, inverse_scale(spec, raw, grid.scale)};
}

void run_quantize(const ConstView& x, const ConstView& given_scale, const ConstView& given_zero,
                  const View& y, const View& scale, const View& zero, const QuantSpec& spec,
                  const Stream& stream) {
  SegmentJob whole{};
  whole.x_type = x.dtype;
  whole.y_type = y.dtype;
  whole.spec = spec;
  if (spec.per != Per::tensor) {
    const auto [segments, length] = segments_of(x, spec);
    over_ranges(stream, segments, 16, length, [&, length = length](int64_t begin, int64_t end) {
      SegmentJob job = whole;
      job.x = at(x, begin * length);
      job.y = y ? at(y, begin * length) : nullptr;
      job.given_scale = given_scale ? given_scale.as<float>() + begin : nullptr;
      job.given_zero = given_zero ? given_zero.as<float>() + begin : nullptr;
      job.scale = scale ? scale.as<float>() + begin : nullptr;
      job.zero = zero ? zero.as<float>() + begin : nullptr;
      job.segments = end - begin;
      job.length = length;
      vector_kernels().quantize(job);
    });
    return;
  }
  TensorGrid all{};
  if (given_scale) {
    const float given = given_scale.as<float>()[0];
    all = {stored_grid(spec, given, given_zero ? given_zero.as<float>()[0] : 0.0f), 1.0f / given};
  } else {
    all = tensor_grid(x, spec, stream);
  }
  const float second = second_of(spec, all.grid);
  if (scale) scale.as<float>()[0] = all.grid.scale;
  if (zero) zero.as<float>()[0] = second;
  if (!y) return;
  over_ranges(stream, x.count(), 64, 1, [&](int64_t begin, int64_t end) {
    SegmentJob job = whole;
    job.x = at(x, begin);
    job.y = at(y, begin);
    job.given_scale = &all.grid.scale;
    job.given_zero = &second;
    job.given_inverse = &all.inverse;
    job.segments = 1;
    job.length = end - begin;
    vector_kernels().quantize(job);
  });
}

void run_stochastic(const ConstView& x, const ConstView& scale, const ConstView& zero,
                    const View& y, const QuantSpec& spec, const RoundingNoise& noise,
                    const Stream& stream) {
  const bool one_scale = spec.per == Per::tensor;
  const Segments all = one_scale ? Segments{x.count(), 1} : segments_of(x, spec);
  over_ranges(stream, all.segments, one_scale ? 256 : 16, all.length,
              [&](int64_t begin, int64_t end) {
                StochasticJob job{};
                SegmentJob& s = job.segments;
                s.x = at(x, begin * all.length);
                s.x_type = x.dtype;
                s.y = at(y, begin * all.length);
                s.y_type = y.dtype;
                s.given_scale = scale.as<float>() + (one_scale ? 0 : begin);
                s.given_zero = zero ? zero.as<float>() + (one_scale ? 0 : begin) : nullptr;
                s.segments = one_scale ? 1 : end - begin;
                s.length = one_scale ? end - begin : all.length;
                s.spec = spec;
                job.seed = noise.seed;
                job.step = noise.step.as<int64_t>()[0];
                job.first = noise.first_element + begin * all.length;
                vector_kernels().quantize_stochastically(job);
              });
}

}  // namespace qat::cpu
