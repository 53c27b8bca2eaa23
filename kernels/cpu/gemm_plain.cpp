// Row by row, so that the inner loop runs over contiguous memory in the nn and tn forms.
#include "kernels/cpu/gemm_plain.h"

namespace qat::cpu {

void gemm_plain(const Gemm& g, const float* a, const float* b, float* c) {
  for (int64_t i = 0; i < g.m; ++i) {
    float* row = c + i * g.ldc;
    for (int64_t j = 0; j < g.n && !g.accumulate; ++j) row[j] = 0.0f;
    if (g.form == MatmulForm::nt) {
      for (int64_t j = 0; j < g.n; ++j) {
        float sum = 0.0f;
        for (int64_t k = 0; k < g.k; ++k) sum += a[i * g.lda + k] * b[j * g.ldb + k];
        row[j] += sum;
      }
      continue;
    }
    for (int64_t k = 0; k < g.k; ++k) {
      const float value = g.form == MatmulForm::tn ? a[k * g.lda + i] : a[i * g.lda + k];
      for (int64_t j = 0; j < g.n; ++j) row[j] += value * b[k * g.ldb + j];
    }
  }
}

}  // namespace qat::cpu
