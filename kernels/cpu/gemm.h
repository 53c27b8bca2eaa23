// Dense matrix products for the kernels of this folder.
//   f32, bf16  our own packed product (gemm_native): oneDNN splits K by the number of threads (bf16
//              with AMX, small f32 products on AVX2), which changes the rounding. bf16 is widened
//              to f32 on the way where the processor has no bf16 products.
//   int8       oneDNN with VNNI or AMX; else widened to f32, exact since a block of K is short
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
