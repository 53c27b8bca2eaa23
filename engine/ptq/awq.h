// AWQ (Lin et al., 2023): input channels that matter are made larger before rounding, and what is
// divided out of them goes into what makes the input; then each group's range is clipped where that
// lowers the output's error. Here the arithmetic on one input; models/solve.h folds a model.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "engine/ptq/gram.h"
#include "engine/ptq/solved_matrix.h"

namespace qat {

struct AwqOptions {
  int64_t n_grid = 20;      ///< ratios tried: 0, 1/n, .. (n-1)/n
  bool duo_scaling = true;  ///< factors follow the weights' magnitudes, too
  bool clip = true;         ///< search each group's range
};

/// Weights [O, K] (f32) that read one input, and their grids; no grid: stays as it is.
struct AwqLinear {
  std::vector<float> w_OK;
  int64_t rows = 0;
  std::optional<QuantSpec> spec;
};

/// Mean over all rows of |w| over the largest |w| of its group (of `group` columns; 0: of its row).
std::vector<float> mean_relative_weights(const std::vector<AwqLinear>& linears, int64_t columns,
                                         int64_t group);

/// s_j = x_j^ratio, or x_j^ratio / (w_j^(1-ratio) + 1e-4) where w is given; at least 1e-4, and then
/// over the root of the product of the largest and the smallest. 1 where that is not a finite
/// number.
std::vector<float> awq_factors(std::span<const float> mean_input,
                               std::span<const float> mean_weight, double ratio);

struct AwqScales {
  double ratio = 0.0;
  std::vector<float> factors;  ///< all 1 for ratio 0 without duo scaling
  double error_before = 0.0, error_after = 0.0;
};
/// The ratio of least error: the sum over the linears of the squared error of their outputs over
/// the outputs' squares, with weights times factors on their grid and inputs divided by factors.
/// `share`: columns with one number get one factor (empty: each its own); a factor of what they
/// share is that of their mean input.
AwqScales search_scales(const std::vector<AwqLinear>& linears, const Gram& inputs,
                        const AwqOptions& options, std::span<const int64_t> share,
                        const KernelTable& kernels, Stream& stream);

/// Round to nearest on grids whose range is clipped, a group at a time, to that share (1, .95 ..
/// .55 of its largest magnitude) which gives the least squared error of the group's part of the
/// output; the spec's own grid is one of those tried.
SolvedMatrix round_clipped(const float* w_OK, int64_t rows, const Gram& inputs,
                           const QuantSpec& spec, const KernelTable& kernels, Stream& stream);

}  // namespace qat
