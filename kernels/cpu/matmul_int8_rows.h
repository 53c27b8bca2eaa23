// One output row of the int8 product: s32 sums to scaled f32 or bf16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/view.h"

namespace qat::cpu {

/// y_o = (sums_o - zero * column_sums_o) * (scale * scales_o); column_sums may be null (zero 0).
using ScaleRow = void (*)(const int32_t* sums, int64_t count, float scale, float zero,
                          const int32_t* column_sums, const float* scales, std::byte* y);

/// The version for the instruction set in use and outputs of type f32 or bf16.
ScaleRow scale_row_for(DType type);

}  // namespace qat::cpu
