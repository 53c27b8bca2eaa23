#include "engine/ptq/smoothing.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "kernels/float_types.h"

namespace qat {

namespace {

constexpr float kLeast = 1e-5f;

// Calls change(value, column) for each element and stores what it returns.
template <class Change>
void change_elements(const View& w, std::span<const float> factors, Change change) {
  if (w.cols() != int64_t(factors.size()) || (w.dtype != DType::f32 && w.dtype != DType::bf16))
    internal_error("smoothing: {} columns of {} and {} factors", w.cols(), name_of(w.dtype),
                   factors.size());
  for (int64_t row = 0; row < w.rows(); ++row)
    for (int64_t col = 0; col < w.cols(); ++col) {
      const int64_t i = row * w.cols() + col;
      const float factor = factors[size_t(col)];
      if (w.dtype == DType::f32)
        w.as<float>()[i] = change(w.as<float>()[i], factor);
      else
        w.as<BFloat16>()[i] = to_bfloat16(change(to_float(w.as<BFloat16>()[i]), factor));
    }
}

}  // namespace

std::vector<float> smoothing_factors(std::span<const float> input_amax,
                                     std::span<const float> weight_amax, float alpha) {
  std::vector<float> factors(input_amax.size(), 1.0f);
  for (size_t j = 0; j < factors.size(); ++j) {
    if (input_amax[j] == 0.0f) continue;
    const float weight = std::max(weight_amax[j], kLeast);
    factors[j] = std::max(std::pow(input_amax[j], alpha) / std::pow(weight, 1.0f - alpha), kLeast);
  }
  return factors;
}

void widen_column_amax(const View& w, std::span<float> amax) {
  for (int64_t row = 0; row < w.rows(); ++row)
    for (int64_t col = 0; col < w.cols(); ++col) {
      const int64_t i = row * w.cols() + col;
      const float value = w.dtype == DType::f32 ? w.as<float>()[i] : to_float(w.as<BFloat16>()[i]);
      amax[size_t(col)] = std::max(amax[size_t(col)], std::abs(value));
    }
}

void multiply_columns(const View& w, std::span<const float> factors) {
  change_elements(w, factors, [](float value, float factor) { return value * factor; });
}

void divide_columns(const View& w, std::span<const float> factors) {
  change_elements(w, factors, [](float value, float factor) { return value / factor; });
}

}  // namespace qat
