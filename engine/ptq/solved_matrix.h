// A weight on its grid as a solver leaves it, and the grids a solver starts from.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/quant_math.h"

namespace qat {

/// Codes [O, K], scales and (unless symmetric) second numbers [O, G]; for Per::tensor one of each.
struct SolvedMatrix {
  QuantSpec spec;
  int64_t rows = 0, columns = 0;
  std::vector<int8_t> codes;
  std::vector<float> scales, seconds;
  /// [O, K]: what each code was chosen for, moved to within half a code of it where that lies
  /// beyond the last code. Training goes on from these numbers; each rounds to its code.
  std::vector<float> unrounded;
  std::vector<int32_t> group_of;  ///< of each column, where groups are not runs of columns
  /// Sum over the calibration tokens of |(Q - W) x|^2 over that of |W x|^2.
  double relative_error = 0.0;

  SolvedMatrix(const QuantSpec& spec, int64_t rows, int64_t columns);
  int64_t groups() const { return spec.groups(columns); }
  size_t grid_index(int64_t row, int64_t column) const {
    if (spec.per == Per::tensor) return 0;
    if (!group_of.empty()) return size_t(row * groups() + group_of[size_t(column)]);
    return size_t(row * groups() + (spec.per == Per::group ? column / spec.group : 0));
  }
  Grid grid(size_t index) const {
    return stored_grid(spec, scales[index], seconds.empty() ? 0.0f : seconds[index]);
  }
  float value(int64_t row, int64_t column) const {
    return value_of(float(codes[size_t(row * columns + column)]), grid(grid_index(row, column)));
  }
  /// Its values in f32 [O, K].
  std::vector<float> values() const;
};

/// The code of a value on a stored grid.
int8_t nearest_code(float value, const QuantSpec& spec, Grid grid);
/// The number nearest to `value` that is within half a code of `code`, and so rounds to it.
float within_cell(float value, int8_t code, const QuantSpec& spec, Grid grid);

/// Round to nearest: codes and grids by the spec's own rule, as the kernel of a training step
/// chooses them.
SolvedMatrix round_to_nearest(const float* w_OK, int64_t rows, int64_t columns,
                              const QuantSpec& spec, const KernelTable& kernels, Stream& stream);

/// Squares of what matrices make of the inputs that a Gram has seen.
class OutputSquares {
 public:
  /// sums_KK: the sum of x xT over the tokens, or a diagonal part of it.
  OutputSquares(std::vector<float> sums_KK, int64_t columns, const KernelTable& kernels,
                Stream& stream)
      : sums_(std::move(sums_KK)), columns_(columns), kernels_(kernels), stream_(stream) {}

  /// The sum over the tokens of (a x)^2, a row of a_OK each.
  std::vector<double> by_row(const std::vector<float>& a_OK);
  /// The sum of that over the rows.
  double total(const std::vector<float>& a_OK);
  /// total(q - w) / total(w); 0 where w makes nothing.
  double relative_error(const std::vector<float>& w_OK, const std::vector<float>& q_OK);

 private:
  std::vector<float> sums_, product_;
  int64_t columns_;
  const KernelTable& kernels_;
  Stream& stream_;
};

}  // namespace qat
