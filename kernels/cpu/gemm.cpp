// Chooses the engine of a product by its types and the instruction set.
#include "kernels/cpu/gemm.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cpu/gemm_native.h"
#include "kernels/cpu/gemm_onednn.h"
#include "kernels/cpu/isa.h"

namespace qat::cpu {
namespace {

void check(const Gemm& g) {
  const bool types = (g.in == DType::f32 && g.out == DType::f32) ||
                     (g.in == DType::bf16 && (g.out == DType::bf16 || g.out == DType::f32)) ||
                     (g.in == DType::i8 && g.out == DType::i32 && g.form == MatmulForm::nt);
  if (!types || (g.accumulate && g.out != DType::f32))
    throw std::logic_error(std::string("gemm: no product of ") + name_of(g.in) + " into " +
                           name_of(g.out) + (g.accumulate ? " with accumulation" : ""));
}

}  // namespace

void gemm(const Gemm& g, const void* a, const void* b, void* c, int threads) {
  check(g);
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) {
    for (int64_t i = 0; i < g.m && !g.accumulate; ++i)
      std::memset(static_cast<char*>(c) + i * g.ldc * int64_t(size_of(g.out)), 0,
                  size_t(g.n) * size_of(g.out));
    return;
  }
  // Integer sums are exact, so oneDNN may cut them as it likes.
  if (g.in == DType::i8 && has_exact_int8() && gemm_onednn(g, a, b, c, threads)) return;
  gemm_native(g, a, b, c, threads);
}

}  // namespace qat::cpu
