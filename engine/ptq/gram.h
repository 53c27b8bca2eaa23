// What the solvers ask of a linear's inputs: the sum of x xT over the calibration tokens, whose
// double is the Hessian of the squared output error, and the mean of |x| a column. Added up batch
// by batch, so that inputs need not be kept.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace qat {

class Gram {
 public:
  explicit Gram(int64_t columns);

  /// Adds the first `rows` rows of x_TK (f32 or bf16): products summed in f32 within the call, in
  /// double across calls.
  void add(const View& x_TK, int64_t rows, const KernelTable& kernels, Stream& stream);
  /// Throws Error(diverged), naming the linear, if a value was not finite or none was seen.
  void check(const std::string& path) const;
  /// As if column j of every x had been divided by factors[j].
  void divide_columns(std::span<const float> factors);

  int64_t columns() const { return columns_; }
  int64_t tokens() const { return tokens_; }
  /// [K, K], row major: the sum of x xT.
  std::span<const double> sums() const { return sums_; }
  /// Mean of |x| a column.
  std::vector<float> mean_magnitudes() const;

  /// Bytes of one, for the memory plan.
  static size_t bytes(int64_t columns);

 private:
  int64_t columns_ = 0, tokens_ = 0;
  std::vector<double> sums_, magnitudes_;
  std::vector<float> batch_;
};

}  // namespace qat
