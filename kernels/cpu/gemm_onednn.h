// int8 products by oneDNN matmul primitives, cached by shape.
#pragma once

#include "kernels/cpu/gemm.h"

namespace qat::cpu {

/// Runs the product if oneDNN has real code for it; false (and nothing done) if it has only its
/// reference loops or nothing at all.
bool gemm_onednn(const Gemm& shape, const void* a, const void* b, void* c, int threads);

}  // namespace qat::cpu
