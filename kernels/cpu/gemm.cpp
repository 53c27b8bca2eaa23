// Chooses the engine of a product by its types and the instruction set.
#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kernels/cpu/gemm_onednn.h"
#include "kernels/cpu/gemm_plain.h"
#include "kernels/cpu/gemm_widened.h"
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

/// oneDNN splits K by the number of threads (AMX; small M on AVX2), which changes the rounding. So
/// each of its calls is one thread's and covers a piece that depends on the shape only.
void gemm_pieces(const Gemm& g, const void* a, const void* b, void* c, int threads) {
  constexpr int64_t kRows = 256, kCols = 512;
  const int64_t pieces_m = (g.m + kRows - 1) / kRows, pieces_n = (g.n + kCols - 1) / kCols;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t piece = 0; piece < pieces_m * pieces_n; ++piece) {
    const int64_t m0 = piece % pieces_m * kRows, n0 = piece / pieces_m * kCols;
    Gemm part = g;
    part.m = std::min(kRows, g.m - m0);
    part.n = std::min(kCols, g.n - n0);
    const int64_t a0 = g.form == MatmulForm::tn ? m0 : m0 * g.lda;
    const int64_t b0 = g.form == MatmulForm::nt ? n0 * g.ldb : n0;
    const auto at = [](const void* data, int64_t element, DType type) {
      return static_cast<const char*>(data) + element * int64_t(size_of(type));
    };
    const char* pa = at(a, a0, g.in);
    const char* pb = at(b, b0, g.in);
    char* pc = const_cast<char*>(at(c, m0 * g.ldc + n0, g.out));
    if (gemm_onednn(part, pa, pb, pc, 1)) continue;
    if (g.in == DType::bf16)
      gemm_widened(part, pa, pb, pc, 1);
    else
      gemm_plain(part, reinterpret_cast<const float*>(pa), reinterpret_cast<const float*>(pb),
                 reinterpret_cast<float*>(pc));
  }
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
  if (g.in == DType::i8) {
    if (has_exact_int8() && gemm_onednn(g, a, b, c, threads)) return;
    return gemm_widened(g, a, b, c, threads);
  }
  if (g.in == DType::bf16 && !has_bf16()) return gemm_widened(g, a, b, c, threads);
  gemm_pieces(g, a, b, c, threads);
}

}  // namespace qat::cpu
