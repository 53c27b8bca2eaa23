// Dense matrix products for the kernels of this folder: one call, several engines behind it.
//   oneDNN        f32 everywhere, bf16 with AVX512 BF16, int8 with VNNI or AMX
//   our AMX code  bf16 with AMX (oneDNN's splits K by thread count there: not the same bits)
//   widened       bf16 without bf16 instructions, int8 without VNNI: tile by tile through f32
// The same bits for any number of threads.
#pragma once

#include "kernels/kernels.h"

namespace qat::cpu {

/// One product c_MN = op(a) . op(b), row-major operands with a distance between stored rows.
struct Gemm {
  DType in;   ///< f32, bf16 or i8 (i8 with nt only)
  DType out;  ///< f32; bf16 (in bf16); i32 (in i8)
  MatmulForm form;
  int64_t m, n, k;
  int64_t lda, ldb, ldc;    ///< elements from one stored row to the next
  bool accumulate = false;  ///< c += (out f32 only)
};

/// Runs the product on `threads` OpenMP threads; within a parallel region it runs on the caller's.
/// Throws std::logic_error for a combination of types that does not exist.
void gemm(const Gemm& shape, const void* a, const void* b, void* c, int threads);

}  // namespace qat::cpu
