// Products by plain loops: the last resort where a library has nothing better, f32 only.
#pragma once

#include "kernels/cpu/gemm.h"

namespace qat::cpu {

/// One thread; sums over K in order.
void gemm_plain(const Gemm& shape, const float* a, const float* b, float* c);

}  // namespace qat::cpu
