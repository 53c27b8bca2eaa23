// One weight matrix as integer codes and scales: what training ends with, what a file of integer
// weights holds, and what the two are compared by.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/quant_spec.h"
#include "kernels/view.h"

namespace qat {

/// value[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g], g the group of column k; with a
/// minimum (codes[n, k] - qmin) * scales[n, g] + zeros[n, g]. Codes of Form::e4m3 stand for the
/// number whose bits they are. The rule and the scale type of `spec` do not matter here.
struct QuantizedMatrix {
  QuantSpec spec;
  Shape shape;                ///< [rows, columns]
  std::vector<int8_t> codes;  ///< [rows, columns]
  std::vector<float> scales;  ///< [rows, groups]; one for Per::tensor
  std::vector<float> zeros;   ///< as scales, whole numbers (or minima); empty when symmetric
  /// The group of each column, where groups are not runs of columns; else empty.
  std::vector<int32_t> group_of = {};

  /// Scales in a row (for Per::tensor: in the whole matrix, 1).
  int64_t groups() const { return spec.groups(shape[1]); }
  /// Where the scale of an element is.
  size_t scale_index(int64_t row, int64_t column) const {
    if (spec.per == Per::tensor) return 0;
    if (!group_of.empty()) return size_t(row * groups() + group_of[size_t(column)]);
    return size_t(row * groups() + (spec.per == Per::group ? column / spec.group : 0));
  }
};

/// Refuses sizes that do not agree, codes and zero points out of range, scales and minima that are
/// not finite. `name` stands in front of the message.
void check_matrix(const QuantizedMatrix& matrix, const std::string& name);
/// Refuses scales that are not positive, which all but GGUF demand.
void check_positive_scales(const QuantizedMatrix& matrix, const std::string& name);

/// The values in f32; out has rows * columns elements.
void dequantize(const QuantizedMatrix& matrix, float* out);

/// "" if codes, scales and zero points are the same bit for bit, else what differs first.
std::string difference(const QuantizedMatrix& a, const QuantizedMatrix& b);

}  // namespace qat
