// Rotations of weights, in double (QuaRot; Ashkboos et al., 2024). A rotation R of n columns is the
// matrix of kernels/hadamard.h, its rows with random signs where there is a seed. Here the
// arithmetic on plain numbers; models/rotate.h folds a model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/stream.h"
#include "kernels/view.h"

namespace qat {

class Rotation {
 public:
  /// Without a seed: what the op hadamard computes.
  explicit Rotation(int64_t width, std::optional<uint64_t> seed = {});

  int64_t width() const { return width_; }
  /// x, `width` numbers, becomes x R; work: as many.
  void apply(double* x, double* work) const;

 private:
  int64_t width_;
  std::vector<double> signs_;    ///< empty: none
  std::vector<double> hartley_;  ///< over the root of the whole width
};

/// Each row of w (f32, or bf16 rounded to nearest even), in pieces of the rotation's width, becomes
/// (row * factors) R: for a matrix that reads what is rotated, or a vector that is added to it.
void rotate_rows(const View& w, const Rotation& rotation, std::span<const float> factors,
                 Stream& stream);
/// Each column, in pieces, becomes RT column: for a matrix that makes what is rotated.
void rotate_columns(const View& w, const Rotation& rotation, Stream& stream);

}  // namespace qat
