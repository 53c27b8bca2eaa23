// SmoothQuant (Xiao et al., 2023): what is hard to quantize moves from a linear's input into its
// weight, column by column. Here the arithmetic on plain numbers; models/smooth.h folds a model.
#pragma once

#include <span>
#include <vector>

#include "kernels/view.h"

namespace qat {

/// s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), the weight's maximum and s_j not below 1e-5. A
/// column in which no value was ever seen keeps s_j = 1: there is nothing to move.
std::vector<float> smoothing_factors(std::span<const float> input_amax,
                                     std::span<const float> weight_amax, float alpha);

/// amax_j = max(amax_j, max over rows of |w_ij|); w is f32 or bf16.
void widen_column_amax(const View& w, std::span<float> amax);

/// w_ij *= s_j (f32, or bf16 rounded to nearest even).
void multiply_columns(const View& w, std::span<const float> factors);
/// w_ij /= s_j; a vector is one row.
void divide_columns(const View& w, std::span<const float> factors);
/// w_ij /= s_i.
void divide_rows(const View& w, std::span<const float> factors);

}  // namespace qat
