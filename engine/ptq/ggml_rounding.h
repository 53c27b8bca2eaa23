// The values that ggml's own quantizer would store, for a model that is not trained on the grid.
#pragma once

#include <cstdint>

#include "kernels/quant_spec.h"

namespace qat {

/// True for the grids of Q8_0, Q4_0 and Q4_1, the ones ggml_snap knows.
bool ggml_knows(const QuantSpec& spec);

/// Puts `count` values (whole blocks of 32) where quantize_row_*_ref of ggml-quants.c puts them:
/// codes are found with the exact scale, rounding half away from zero (Q8_0) or up, and the scale
/// is rounded to f16 afterwards. Quantizing the result on its grid gives ggml's very codes.
void ggml_snap(const QuantSpec& spec, float* values, int64_t count);

}  // namespace qat
