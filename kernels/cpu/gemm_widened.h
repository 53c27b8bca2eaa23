// Products of bf16 or int8 operands through f32, for processors without the instructions.
#pragma once

#include "kernels/cpu/gemm.h"

namespace qat::cpu {

/// Tile by tile: operands widened to f32, multiplied, summed over K in fixed order. int8 products
/// are exact: a tile spans at most 1024 of K, and 1024 * 128 * 128 = 2^24 is still an exact f32.
void gemm_widened(const Gemm& shape, const void* a, const void* b, void* c, int threads);

}  // namespace qat::cpu
