// Running statistics of activations. NaN is passed over; infinities count.
#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {
namespace {

template <class T>
void widen_min_max(const T* x, int64_t count, float* min_max, const Stream& stream) {
  float low = min_max[0], high = min_max[1];
  over_ranges(stream, count, 64, 1, [&](int64_t begin, int64_t end) {
    float part_low = low, part_high = high;
#pragma omp simd reduction(min : part_low) reduction(max : part_high)
    for (int64_t i = begin; i < end; ++i) {
      const float value = to_float(x[i]);
      part_low = smaller(value, part_low);
      part_high = larger(value, part_high);
    }
#pragma omp critical(qat_observe)
    {
      min_max[0] = std::min(min_max[0], part_low);
      min_max[1] = std::max(min_max[1], part_high);
    }
  });
}

// Counts the values between bottom and top, or, when bottom is 0, the magnitudes up to top.
template <class T>
void count_values(const T* x, int64_t count, const View& histogram, float bottom, float top,
                  const Stream& stream) {
  const int64_t bins = histogram.count();
  int64_t* counts = histogram.as<int64_t>();
  const float per_unit = float(bins) / (top - bottom);
  const auto bin_of = [=](float value) {
    const float position = ((bottom < 0.0f ? value : magnitude(value)) - bottom) * per_unit;
    if (!(position > 0.0f)) return int64_t(0);
    return position < float(bins) ? std::min(int64_t(position), bins - 1) : bins - 1;
  };
  over_ranges(stream, count, 64, 4, [&](int64_t begin, int64_t end) {
    constexpr int64_t kLocalBins = 4096;
    std::array<int32_t, kLocalBins> local;
    const bool fits = bins <= kLocalBins && end - begin < (int64_t(1) << 31);
    if (fits) std::fill_n(local.begin(), bins, 0);
    for (int64_t i = begin; i < end; ++i) {
      const float value = to_float(x[i]);
      if (is_nan(value)) continue;
      if (fits) {
        ++local[size_t(bin_of(value))];
        continue;
      }
#pragma omp atomic
      ++counts[bin_of(value)];
    }
    if (!fits) return;
    for (int64_t bin = 0; bin < bins; ++bin) {
      if (local[size_t(bin)] == 0) continue;
#pragma omp atomic
      counts[bin] += local[size_t(bin)];
    }
  });
}

template <class T>
void observe_values(const Observe& args, const Stream& stream) {
  const ConstView& x = args.x_TC;
  const T* values = x.as<T>();
  if (args.column_amax_C) {
    float* amax = args.column_amax_C.as<float>();
    over_ranges(stream, x.cols(), 64, x.rows(), [&](int64_t begin, int64_t end) {
      for (int64_t row = 0; row < x.rows(); ++row)
        vector_kernels().column_amax(amax + begin, values + row * x.cols() + begin, x.dtype,
                                     end - begin);
    });
  }
  if (args.min_max) widen_min_max(values, x.count(), args.min_max.as<float>(), stream);
  if (args.histogram)
    count_values(values, x.count(), args.histogram, args.histogram_bottom, args.histogram_top,
                 stream);
}

}  // namespace

void observe(const Observe& args, Stream& stream) {
  if (args.x_TC.dtype == DType::f32)
    observe_values<float>(args, stream);
  else
    observe_values<BFloat16>(args, stream);
}

}  // namespace qat::cpu
