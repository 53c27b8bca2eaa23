// Running statistics of activations. NaN is passed over; infinities count. Maxima of magnitudes are
// taken on their bits and counts are integers, so that atomic operations have one result. Each
// statistic reads x once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"
#include "kernels/quant_math.h"

namespace qat::cuda {
namespace {

constexpr int64_t kRowsAtOnce = 256;
constexpr int64_t kMostLocalBins = 4096;
constexpr int64_t kParts = 512;

template <class T>
struct ColumnMaxRun {
  const T* x;
  int* amax;  ///< bits of floats that are not negative
  int64_t rows, cols;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t column = i % cols, first = i / cols * kRowsAtOnce;
    const int64_t last = first + kRowsAtOnce < rows ? first + kRowsAtOnce : rows;
    float top[kWidth], v[kWidth];
    for (int k = 0; k < kWidth; ++k) top[k] = 0.0f;
    for (int64_t row = first; row < last; ++row) {
      load(x + row * cols + column, v);
      for (int k = 0; k < kWidth; ++k) top[k] = larger(magnitude(v[k]), top[k]);
    }
    for (int k = 0; k < kWidth; ++k) atomicMax(amax + column + k, int(bits_of(top[k])));
  }
};

struct Ends {
  float low, high;
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    part_ends(const T* x, int64_t count, const float* min_max, Ends* parts) {
  float low = min_max[0], high = min_max[1];
  const int64_t step = int64_t(gridDim.x) * kBlockThreads;
  for (int64_t i = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x; i < count; i += step) {
    const float value = to_float(x[i]);
    low = smaller(value, low);
    high = larger(value, high);
  }
  const Team block{kBlockThreads};
  low = block.reduce(low, Smallest{});
  high = block.reduce(high, Largest{});
  if (threadIdx.x == 0) parts[blockIdx.x] = {low, high};
}

__global__ void __launch_bounds__(kWarp)
    fold_ends(const Ends* parts, int64_t count, float* min_max) {
  if (threadIdx.x != 0) return;
  for (int64_t i = 0; i < count; ++i) {
    min_max[0] = smaller(parts[i].low, min_max[0]);
    min_max[1] = larger(parts[i].high, min_max[1]);
  }
}

struct Bins {
  int64_t count;
  float bottom, top;
  QAT_DEVICE int64_t of(float value) const {
    const float per_unit = float(count) / (top - bottom);
    const float position = ((bottom < 0.0f ? value : magnitude(value)) - bottom) * per_unit;
    if (!(position > 0.0f)) return 0;
    if (!(position < float(count))) return count - 1;
    const auto bin = int64_t(position);
    return bin < count - 1 ? bin : count - 1;
  }
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    count_values(const T* x, int64_t count, Bins bins, unsigned long long* counts) {
  auto* local = reinterpret_cast<unsigned*>(dynamic_shared());
  const bool fits = bins.count <= kMostLocalBins;
  if (fits)
    for (int64_t bin = threadIdx.x; bin < bins.count; bin += kBlockThreads) local[bin] = 0;
  __syncthreads();
  const int64_t step = int64_t(gridDim.x) * kBlockThreads;
  for (int64_t i = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x; i < count; i += step) {
    const float value = to_float(x[i]);
    if (is_nan(value)) continue;
    if (fits)
      atomicAdd(local + bins.of(value), 1u);
    else
      atomicAdd(counts + bins.of(value), 1ull);
  }
  __syncthreads();
  if (!fits) return;
  for (int64_t bin = threadIdx.x; bin < bins.count; bin += kBlockThreads)
    if (local[bin] != 0) atomicAdd(counts + bin, (unsigned long long)local[bin]);
}

template <class T>
void observe_values(const Observe& args, Stream& stream) {
  const ConstView& x = args.x_TC;
  const int64_t count = x.count(), rows = x.rows(), cols = x.cols();
  const Blocks blocks{std::min(kParts, divided_up(count, kBlockThreads))};
  if (count == 0) return;
  if (args.column_amax_C)
    elementwise(stream, divided_up(rows, kRowsAtOnce) * cols, fits_wide(cols, x.data),
                ColumnMaxRun<T>{x.as<T>(), args.column_amax_C.as<int>(), rows, cols});
  if (args.min_max) {
    auto* parts = workspace_of<Ends>(stream);
    launch(part_ends<T>, blocks, kBlockThreads, 0, stream, x.as<T>(), count,
           args.min_max.as<float>(), parts);
    launch(fold_ends, Blocks{1}, kWarp, 0, stream, parts, blocks.x, args.min_max.as<float>());
  }
  if (args.histogram) {
    const int64_t bins = args.histogram.count();
    const size_t shared = bins <= kMostLocalBins ? size_t(bins) * sizeof(unsigned) : 0;
    launch(count_values<T>, blocks, kBlockThreads, shared, stream, x.as<T>(), count,
           Bins{bins, args.histogram_bottom, args.histogram_top},
           args.histogram.as<unsigned long long>());
  }
}

}  // namespace

void observe(const Observe& args, Stream& stream) {
  with_float(args.x_TC.dtype, [&](auto zero) { observe_values<decltype(zero)>(args, stream); });
}

}  // namespace qat::cuda
