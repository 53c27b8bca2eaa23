// Quantize and fake quantize. A team of threads takes a row or group: it finds the scale, and what
// it reads a second time lies in the caches, so device memory is read once and written once. A
// whole tensor is read twice: first its extent, by chunks that are merged in order. A searched
// scale (mse, K-types) costs a launch of its own.
#include "kernels/cuda/grid_search.h"
#include "kernels/cuda/grids.h"
#include "kernels/cuda/random_half.h"

namespace qat::cuda {
namespace {

struct Either {
  QAT_DEVICE int operator()(int a, int b) const { return a | b; }
};
struct LargestKey {
  QAT_DEVICE unsigned long long operator()(unsigned long long a, unsigned long long b) const {
    return a > b ? a : b;
  }
};

constexpr int64_t kParts = 256;          // of a whole tensor, for its extent: at most
constexpr int64_t kPartElements = 2048;  // at least, but for the last
constexpr int64_t kChunks = 64;          // of a whole tensor, for errors: those of the CPU

struct Part {
  float low, high, peak;
  int nan;
};

/// What a tensor-wide grid needs between its launches.
struct TensorWork {
  Part parts[kParts];  ///< as many as `part_count`
  int64_t part_count;
  Extent extent;
  Grid grids[kShrinkSteps];
  float errors[kChunks * kShrinkSteps];
  float scale, second, inverse;  ///< the result
};
static_assert(sizeof(TensorWork) <= kWorkspaceBytes);

template <class From, class To>
struct SegmentsJob {
  const From* x;
  To* y;
  float *scale, *zero;  ///< may be null
  int64_t segments, length;
  QuantSpec spec;
};

/// Extent, and the first value of largest magnitude where the rule wants it, of a team's elements.
template <int kWidth, class From>
QAT_DEVICE Part measure(const From* x, int64_t length, const QuantSpec& spec, Team team) {
  const float infinity = float_of(0x7F800000u);
  const bool bare = spec.has_minimum();
  const bool wants_peak = effective_rule(spec) == ScaleRule::signed_max;
  float low = bare ? infinity : 0.0f, high = bare ? -infinity : 0.0f;
  int nan = 0;
  unsigned long long key = 0;  // the magnitude, then how near to the front it is
  for (int64_t i = team.rank() * kWidth; i < length; i += team.size * kWidth) {
    float v[kWidth];
    load(x + i, v);
    for (int k = 0; k < kWidth; ++k) {
      low = smaller(v[k], low);
      high = larger(v[k], high);
      nan |= int(is_nan(v[k]));
      if (!wants_peak) continue;
      const unsigned long long own =
          (unsigned long long)bits_of(magnitude(v[k])) << 32 | (0xFFFFFFFFull - uint32_t(i + k));
      key = own > key ? own : key;
    }
  }
  Part part{};
  part.low = team.reduce(low, Smallest{});
  part.high = team.reduce(high, Largest{});
  part.nan = team.reduce(nan, Either{});
  if (wants_peak) {
    key = team.reduce(key, LargestKey{});
    part.peak = length > 0 ? to_float(x[0xFFFFFFFFu - uint32_t(key)]) : 0.0f;
  }
  if (part.nan) part.low = part.high = part.peak = float_of(0x7FC00000u);
  return part;
}

QAT_DEVICE Coder coder_of(const Part& part, const QuantSpec& spec) {
  const Extent extent{part.low, part.high};
  const float raw = raw_scale(spec, extent, part.peak);
  const Grid grid = make_grid(spec, extent, raw);
  return {grid, inverse_scale(spec, raw, grid.scale)};
}

template <int kWidth, class From, class To>
__global__ void __launch_bounds__(kBlockThreads)
    quantize_segments(SegmentsJob<From, To> job, Team team) {
  const int64_t segment = int64_t(blockIdx.x) * (kBlockThreads / team.size) + team.index();
  const bool real = segment < job.segments;
  const From* x = job.x + (real ? segment : 0) * job.length;
  const Coder coder = coder_of(measure<kWidth>(x, job.length, job.spec, team), job.spec);
  if (!real) return;
  if (team.rank() == 0) {
    if (job.scale) job.scale[segment] = coder.grid.scale;
    if (job.zero) job.zero[segment] = second_of(job.spec, coder.grid);
  }
  if (!job.y) return;
  const CodeRange range = code_range(job.spec);
  for (int64_t i = team.rank() * kWidth; i < job.length; i += team.size * kWidth) {
    float v[kWidth];
    load(x + i, v);
    put(job.y + segment * job.length + i, v, coder, job.spec, range);
  }
}

/// Values or codes on a grid that is known.
template <class From, class To>
struct GivenRun {
  const From* x;
  To* y;
  const float *scale, *zero, *inverse;  ///< zero and inverse may be null
  int64_t length;
  QuantSpec spec;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t segment = i / length;
    Coder coder;
    coder.grid = stored_grid(spec, scale[segment], zero ? zero[segment] : 0.0f);
    coder.inverse = inverse ? inverse[segment] : 1.0f / coder.grid.scale;
    float v[kWidth];
    load(x + i, v);
    put(y + i, v, coder, spec, code_range(spec));
  }
};

/// Codes or values on a grid that is known, rounded at random: noise in (-1/2, 1/2) is added before
/// rounding to nearest.
template <class From, class To>
struct StochasticRun {
  const From* x;
  To* y;
  const float *scale, *zero;  ///< zero may be null
  const int64_t* step;
  uint64_t seed;
  int64_t first, length;
  QuantSpec spec;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t segment = i / length;
    const Grid grid = stored_grid(spec, scale[segment], zero ? zero[segment] : 0.0f);
    const float inverse = 1.0f / grid.scale;
    const ShiftedRange range = shifted_range(spec, grid.zero);
    float v[kWidth];
    load(x + i, v);
    for (int k = 0; k < kWidth; ++k) {
      const uint32_t half = random_half(seed, uint64_t(*step), first + i + k);
      const float noise = (float(int(half)) + 0.5f) * 0x1p-16f - 0.5f;
      const float moved = ((v[k] - grid.minimum) * inverse + noise) + kShift;
      v[k] = smaller(larger(moved, range.low), range.high) - kShift;
    }
    if constexpr (sizeof(To) == 1) {
      uint8_t codes[kWidth];
      for (int k = 0; k < kWidth; ++k) codes[k] = uint8_t(int8_t(int(v[k] + grid.zero)));
      store_bytes(y + i, codes);
    } else {
      for (int k = 0; k < kWidth; ++k) v[k] = v[k] * grid.scale + grid.minimum;
      store(y + i, v);
    }
  }
};

struct GridRun {
  const float *given_scale, *given_zero;
  float *scale, *zero;
  QuantSpec spec;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    for (int k = 0; k < kWidth; ++k) {
      const Grid grid =
          stored_grid(spec, given_scale[i + k], given_zero ? given_zero[i + k] : 0.0f);
      if (scale) scale[i + k] = grid.scale;
      if (zero) zero[i + k] = second_of(spec, grid);
    }
  }
};

// ---- searched scales of rows and groups ----

template <class From>
__global__ void __launch_bounds__(kBlockThreads)
    search_short(const From* x, float* scale, float* zero, int64_t segments, int64_t length,
                 QuantSpec spec) {
  const int64_t segment = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (segment >= segments) return;
  const From* from = x + segment * length;
  Extent extent;
  uint32_t size = 0;
  for (int64_t i = 0; i < length; ++i) widen(extent, size, to_float(from[i]));
  extent = with_nan(extent, size);
  float raw = raw_scale(spec, extent, 0.0f);
  Grid best = make_grid(spec, extent, raw);
  float best_error = short_error(from, length, spec, best);
  for (int step = 1; step < kShrinkSteps; ++step) {
    raw = raw * kShrink;
    const Grid grid = make_grid(spec, extent, raw);
    if (!(clipping_error(spec, extent, grid.scale) < best_error * kBoundMargin)) break;
    const float error = short_error(from, length, spec, grid);
    if (!(error < best_error)) continue;
    best_error = error;
    best = grid;
  }
  scale[segment] = best.scale;
  if (zero) zero[segment] = second_of(spec, best);
}

template <class From>
__global__ void __launch_bounds__(kSearchThreads)
    search_long(const From* x, float* scale, float* zero, int64_t length, QuantSpec spec) {
  __shared__ float sums[kSearchThreads];
  __shared__ Extent extents[kSearchThreads];
  __shared__ uint32_t sizes[kSearchThreads];
  const From* from = x + int64_t(blockIdx.x) * length;
  Extent own;
  uint32_t own_size = 0;
  for (int64_t i = threadIdx.x; i < length; i += kSearchThreads)
    widen(own, own_size, to_float(from[i]));
  extents[threadIdx.x] = own;
  sizes[threadIdx.x] = own_size;
  __syncthreads();
  Extent extent;
  uint32_t size = 0;
  for (int i = 0; i < kSearchThreads; ++i) {
    extent.low = smaller(extents[i].low, extent.low);
    extent.high = larger(extents[i].high, extent.high);
    size = sizes[i] > size ? sizes[i] : size;
  }
  extent = with_nan(extent, size);
  float raw = raw_scale(spec, extent, 0.0f);
  Grid best = make_grid(spec, extent, raw);
  float best_error = long_error(from, length, spec, best, sums);
  for (int step = 1; step < kShrinkSteps; ++step) {
    raw = raw * kShrink;
    const Grid grid = make_grid(spec, extent, raw);
    if (!(clipping_error(spec, extent, grid.scale) < best_error * kBoundMargin)) break;
    const float error = long_error(from, length, spec, grid, sums);
    if (!(error < best_error)) continue;
    best_error = error;
    best = grid;
  }
  if (threadIdx.x != 0) return;
  scale[blockIdx.x] = best.scale;
  if (zero) zero[blockIdx.x] = second_of(spec, best);
}

template <int kLength, class From>
__global__ void __launch_bounds__(128)
    fit_super_blocks(const From* x, float* scale, float* minimum, int64_t segments) {
  const int64_t segment = int64_t(blockIdx.x) * 128 + threadIdx.x;
  const From* from = x + (segment < segments ? segment : 0) * kLength;
  float u[kLength];
  for (int i = 0; i < kLength; ++i) u[i] = to_float(from[i]);
  Fit fit;
  if constexpr (kLength == 32)
    fit = tie_q4_k(fit_q4_k(u));
  else
    fit = tie_q6_k(fit_q6_k(u));
  if (segment >= segments) return;
  scale[segment] = fit.scale;
  if (minimum) minimum[segment] = fit.minimum;
}

// ---- one grid for a whole tensor ----

struct Chunk {
  int64_t begin, end;
};
QAT_DEVICE Chunk chunk_of(int64_t count, int64_t parts, int64_t index) {
  const int64_t size = ((count + parts - 1) / parts + 63) / 64 * 64;
  const int64_t begin = index * size, end = begin + size;
  return {begin < count ? begin : count, end < count ? end : count};
}

template <class From>
__global__ void __launch_bounds__(kBlockThreads)
    measure_parts(const From* x, int64_t count, QuantSpec spec, TensorWork* work) {
  const Chunk chunk = chunk_of(count, gridDim.x, blockIdx.x);
  const Part part = measure<1>(x + chunk.begin, chunk.end - chunk.begin, spec, Team{kBlockThreads});
  if (threadIdx.x != 0) return;
  work->parts[blockIdx.x] = part;
  if (blockIdx.x == 0) work->part_count = gridDim.x;
}

QAT_DEVICE Part merged_parts(const TensorWork& work, const QuantSpec& spec) {
  const float infinity = float_of(0x7F800000u);
  Part all{};
  all.low = spec.has_minimum() ? infinity : 0.0f;
  all.high = spec.has_minimum() ? -infinity : 0.0f;
  for (int64_t i = 0; i < work.part_count; ++i) {
    const Part& part = work.parts[i];
    all.low = smaller(part.low, all.low);
    all.high = larger(part.high, all.high);
    all.nan |= part.nan;
    if (magnitude(part.peak) > magnitude(all.peak)) all.peak = part.peak;
  }
  if (all.nan) all.low = all.high = all.peak = float_of(0x7FC00000u);
  return all;
}

QAT_DEVICE void set_grid(TensorWork& work, const Coder& coder, float* scale, float* zero,
                         const QuantSpec& spec) {
  work.scale = coder.grid.scale;
  work.second = second_of(spec, coder.grid);
  work.inverse = coder.inverse;
  if (scale) *scale = work.scale;
  if (zero) *zero = work.second;
}

__global__ void __launch_bounds__(kWarp)
    choose_grid(TensorWork* work, float* scale, float* zero, QuantSpec spec) {
  if (threadIdx.x != 0) return;
  set_grid(*work, coder_of(merged_parts(*work, spec), spec), scale, zero, spec);
}

__global__ void __launch_bounds__(kWarp) list_grids(TensorWork* work, QuantSpec spec) {
  if (threadIdx.x != 0) return;
  const Part all = merged_parts(*work, spec);
  const Extent extent{all.low, all.high};
  float raw = raw_scale(spec, extent, 0.0f);
  for (int step = 0; step < kShrinkSteps; ++step) {
    work->grids[step] = make_grid(spec, extent, raw);
    raw *= kShrink;
  }
}

template <class From>
__global__ void __launch_bounds__(kSearchThreads)
    measure_errors(const From* x, int64_t count, QuantSpec spec, TensorWork* work) {
  __shared__ float sums[kSearchThreads];
  const Chunk chunk = chunk_of(count, kChunks, blockIdx.x);
  const float error =
      long_error(x + chunk.begin, chunk.end - chunk.begin, spec, work->grids[blockIdx.y], sums);
  if (threadIdx.x == 0) work->errors[blockIdx.x * kShrinkSteps + blockIdx.y] = error;
}

__global__ void __launch_bounds__(kWarp)
    choose_least_error(TensorWork* work, float* scale, float* zero, QuantSpec spec) {
  if (threadIdx.x != 0) return;
  int best = 0;
  double best_error = 0.0;
  for (int step = 0; step < kShrinkSteps; ++step) {
    double error = 0.0;
    for (int64_t chunk = 0; chunk < kChunks; ++chunk)
      error += double(work->errors[chunk * kShrinkSteps + step]);
    if (step > 0 && !(error < best_error)) continue;
    best = step;
    best_error = error;
  }
  const Grid grid = work->grids[best];
  set_grid(*work, {grid, 1.0f / grid.scale}, scale, zero, spec);
}

// ---- launches ----

float* floats_of(const View& view) {
  return view ? view.as<float>() : nullptr;
}

template <class From, class To>
void write_given(const ConstView& x, const View& y, const float* scale, const float* zero,
                 const float* inverse, const QuantSpec& spec, Stream& stream) {
  const int64_t length = segment_length(x, spec);
  const bool wide = fits_wide(length, x.data, y.data);
  elementwise(stream, x.count(), wide,
              GivenRun<From, To>{x.as<From>(), y.as<To>(), scale, zero, inverse, length, spec});
}

template <class From>
void find_tensor_grid(const ConstView& x, const View& scale, const View& zero,
                      const QuantSpec& spec, Stream& stream) {
  auto* work = workspace_of<TensorWork>(stream);
  const Blocks parts{std::min(kParts, divided_up(x.count(), kPartElements))};
  launch(measure_parts<From>, parts, kBlockThreads, 0, stream, x.as<From>(), x.count(), spec, work);
  if (!is_searched(effective_rule(spec))) {
    launch(choose_grid, Blocks{1}, kWarp, 0, stream, work, floats_of(scale), floats_of(zero), spec);
    return;
  }
  launch(list_grids, Blocks{1}, kWarp, 0, stream, work, spec);
  launch(measure_errors<From>, Blocks{kChunks, kShrinkSteps}, kSearchThreads, 0, stream,
         x.as<From>(), x.count(), spec, work);
  launch(choose_least_error, Blocks{1}, kWarp, 0, stream, work, floats_of(scale), floats_of(zero),
         spec);
}

/// Scales of rows and groups that are searched for; they are then given.
template <class From>
void search(const ConstView& x, const View& scale, const View& zero, const QuantSpec& spec,
            Stream& stream) {
  const int64_t length = segment_length(x, spec), segments = x.count() / length;
  if (spec.form == Form::q4_k)
    launch(fit_super_blocks<32, From>, Blocks{divided_up(segments, 128)}, 128, 0, stream,
           x.as<From>(), scale.as<float>(), floats_of(zero), segments);
  else if (spec.form == Form::q6_k)
    launch(fit_super_blocks<16, From>, Blocks{divided_up(segments, 128)}, 128, 0, stream,
           x.as<From>(), scale.as<float>(), floats_of(zero), segments);
  else if (length <= kShortest)
    launch(search_short<From>, Blocks{divided_up(segments, kBlockThreads)}, kBlockThreads, 0,
           stream, x.as<From>(), scale.as<float>(), floats_of(zero), segments, length, spec);
  else
    launch(search_long<From>, Blocks{segments}, kSearchThreads, 0, stream, x.as<From>(),
           scale.as<float>(), floats_of(zero), length, spec);
}

template <class From, class To>
void quantize_as(const ConstView& x, const ConstView& given_scale, const ConstView& given_zero,
                 const View& y, const View& scale, const View& zero, const QuantSpec& spec,
                 Stream& stream) {
  if (x.count() == 0) return;
  if (given_scale) {
    const float* second = given_zero ? given_zero.as<float>() : nullptr;
    if (scale || zero)
      elementwise(
          stream, given_scale.count(), false,
          GridRun{given_scale.as<float>(), second, floats_of(scale), floats_of(zero), spec});
    if (y) write_given<From, To>(x, y, given_scale.as<float>(), second, nullptr, spec, stream);
    return;
  }
  if (spec.per == Per::tensor) {
    find_tensor_grid<From>(x, scale, zero, spec, stream);
    auto* work = workspace_of<TensorWork>(stream);
    if (y) write_given<From, To>(x, y, &work->scale, &work->second, &work->inverse, spec, stream);
    return;
  }
  if (spec.in_super_blocks() || is_searched(effective_rule(spec))) {
    search<From>(x, scale, zero, spec, stream);
    if (y) write_given<From, To>(x, y, scale.as<float>(), floats_of(zero), nullptr, spec, stream);
    return;
  }
  const int64_t length = segment_length(x, spec), segments = x.count() / length;
  const bool wide = fits_wide(length, x.data, y.data);
  const Team team = team_for(length, wide);
  const SegmentsJob<From, To> job{
      x.as<From>(), y ? y.as<To>() : nullptr, floats_of(scale), floats_of(zero), segments, length,
      spec};
  launch(wide ? quantize_segments<kWide, From, To> : quantize_segments<1, From, To>,
         team_blocks(segments, team), kBlockThreads, 0, stream, job, team);
}

}  // namespace

void run_quantize(const ConstView& x, const ConstView& given_scale, const ConstView& given_zero,
                  const View& y, const View& scale, const View& zero, const QuantSpec& spec,
                  Stream& stream) {
  with_float(x.dtype, [&](auto from) {
    using From = decltype(from);
    if (!y || y.dtype == DType::i8)
      quantize_as<From, int8_t>(x, given_scale, given_zero, y, scale, zero, spec, stream);
    else
      with_float(y.dtype, [&](auto to) {
        quantize_as<From, decltype(to)>(x, given_scale, given_zero, y, scale, zero, spec, stream);
      });
  });
}

void run_stochastic(const ConstView& x, const ConstView& scale, const ConstView& zero,
                    const View& y, const QuantSpec& spec, const RoundingNoise& noise,
                    Stream& stream) {
  const int64_t length = segment_length(x, spec);
  const bool wide = fits_wide(length, x.data, y.data);
  const auto run = [&](auto from, auto to) {
    using From = decltype(from);
    using To = decltype(to);
    elementwise(stream, x.count(), wide,
                StochasticRun<From, To>{x.as<From>(), y.as<To>(), scale.as<float>(),
                                        zero.as<float>(), noise.step.as<int64_t>(), noise.seed,
                                        noise.first_element, length, spec});
  };
  with_float(x.dtype, [&](auto from) {
    if (y.dtype == DType::i8)
      run(from, int8_t{});
    else
      with_float(y.dtype, [&](auto to) { run(from, to); });
  });
}

}  // namespace qat::cuda
