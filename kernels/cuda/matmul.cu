// The three matrix products of a linear layer: forward, input gradient, weight gradient.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gemm.h"

namespace qat::cuda {

void matmul(const Matmul& args, Stream& stream) {
  const int64_t lda = args.a.cols(), ldb = args.b.cols(), ldc = args.c.cols();
  gemm({.in = args.a.dtype,
        .out = args.c.dtype,
        .form = args.form,
        .m = args.c.rows(),
        .n = ldc,
        .k = args.form == MatmulForm::tn ? args.a.rows() : lda,
        .lda = lda,
        .ldb = ldb,
        .ldc = ldc,
        .accumulate = args.accumulate},
       args.a.data, args.b.data, args.c.data, stream);
}

}  // namespace qat::cuda
