// What a weight takes in a file.
#pragma once

#include "kernels/quant_spec.h"
#include "kernels/view.h"

namespace qat {

/// Bits of a weight [O, K] on a grid: codes, scales, and zero points or minima. Files that have no
/// codes of so few bits take more.
inline int64_t stored_bits(const Shape& shape, const QuantSpec& spec) {
  // Bytes of ggml's block_q4_K and block_q6_K.
  if (spec.in_super_blocks())
    return shape.count() / kSuperBlock * 8 * (spec.form == Form::q4_k ? 144 : 210);
  const int64_t scales = spec.per == Per::tensor ? 1 : shape.rows() * spec.groups(shape.cols());
  int64_t scale_bits = spec.scale_type == ScaleType::f32 ? 32 : 16;
  if (spec.has_minimum())
    scale_bits *= 2;
  else if (!spec.symmetric())
    scale_bits += spec.bits;
  return shape.count() * spec.bits + scales * scale_bits;
}

}  // namespace qat
