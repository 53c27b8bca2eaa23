// The three matrix products of a linear layer: forward, input gradient, weight gradient.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm.h"

namespace qat::cpu {

void matmul(const Matmul& args, Stream& stream) {
  const int64_t lda = args.a.cols(), ldb = args.b.cols(), ldc = args.c.cols();
  const Gemm g{.in = args.a.dtype,
               .out = args.c.dtype,
               .form = args.form,
               .m = args.c.rows(),
               .n = ldc,
               .k = args.form == MatmulForm::tn ? args.a.rows() : lda,
               .lda = lda,
               .ldb = ldb,
               .ldc = ldc,
               .accumulate = args.accumulate};
  gemm(g, args.a.data, args.b.data, args.c.data, stream.threads());
}

}  // namespace qat::cpu
