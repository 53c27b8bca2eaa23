#include "engine/ptq/smoothing.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/ptq/values.h"
#include "kernels/float_types.h"

namespace qat {

namespace {

constexpr float kLeast = 1e-5f;

// value = change(value, factor) for each element, the factor chosen by its row and column.
template <class FactorOf, class Change>
void change_elements(const View& w, size_t wanted, std::span<const float> factors,
                     FactorOf factor_of, Change change) {
  if (wanted != factors.size() || (w.dtype != DType::f32 && w.dtype != DType::bf16))
    internal_error("smoothing: {} of {} and {} factors", wanted, name_of(w.dtype), factors.size());
  for (int64_t row = 0; row < w.rows(); ++row)
    for (int64_t col = 0; col < w.cols(); ++col) {
      const int64_t i = row * w.cols() + col;
      const float factor = factors[size_t(factor_of(row, col))];
      if (w.dtype == DType::f32)
        w.as<float>()[i] = change(w.as<float>()[i], factor);
      else
        w.as<BFloat16>()[i] = to_bfloat16(change(to_float(w.as<BFloat16>()[i]), factor));
    }
}

int64_t by_column(int64_t, int64_t col) {
  return col;
}
int64_t by_row(int64_t row, int64_t) {
  return row;
}
float product(float value, float factor) {
  return value * factor;
}
float quotient(float value, float factor) {
  return value / factor;
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
      amax[size_t(col)] = std::max(amax[size_t(col)], std::abs(value_at(w, i)));
    }
}

void multiply_columns(const View& w, std::span<const float> factors) {
  change_elements(w, size_t(w.cols()), factors, by_column, product);
}
void divide_columns(const View& w, std::span<const float> factors) {
  change_elements(w, size_t(w.cols()), factors, by_column, quotient);
}
void divide_rows(const View& w, std::span<const float> factors) {
  change_elements(w, size_t(w.rows()), factors, by_row, quotient);
}

}  // namespace qat
