// Dense matrix products on the GPU, by cuBLASLt (gemm.cu). In emulation the CPU's products stand in
// for it.
#pragma once

#include "kernels/cuda/context.h"
#include "kernels/kernels.h"

namespace qat::cuda {

/// One product c_MN = op(a) . op(b), row-major operands with a distance between stored rows.
struct Gemm {
  DType in;   ///< f32, bf16 or i8 (i8 with nt only)
  DType out;  ///< f32; bf16 (in bf16); i32 (in i8)
  MatmulForm form;
  int64_t m, n, k;
  int64_t lda, ldb, ldc;    ///< elements from one stored row to the next
  bool accumulate = false;  ///< c += (out f32 only)
};

inline constexpr size_t kGemmWorkspaceBytes = size_t(32) << 20;

/// cuBLASLt for one stream. Throws std::runtime_error where it cannot start. Not in emulation.
Gemms* make_gemms();
void destroy_gemms(Gemms* gemms);

/// Queues the product. Throws std::runtime_error where cuBLASLt refuses it.
void gemm(const Gemm& shape, const void* a, const void* b, void* c, Stream& stream);

}  // namespace qat::cuda
