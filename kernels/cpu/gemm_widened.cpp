// Each tile is a task of one thread with buffers of fixed size, so thread count changes no bits.
#include "kernels/cpu/gemm_widened.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "kernels/cpu/gemm_onednn.h"
#include "kernels/cpu/gemm_plain.h"
#include "kernels/float_types.h"

namespace qat::cpu {
namespace {

constexpr int64_t kTileM = 256, kTileN = 256, kTileK = 512;

/// A rectangle of a stored operand: `rows` rows of `cols` elements, `stride` apart.
struct Rectangle {
  int64_t offset, rows, cols, stride;
};

void widen(DType type, const void* source, const Rectangle& r, float* out) {
  for (int64_t i = 0; i < r.rows; ++i, out += r.cols) {
    const int64_t at = r.offset + i * r.stride;
    if (type == DType::bf16) {
      const auto* from = static_cast<const BFloat16*>(source) + at;
      for (int64_t j = 0; j < r.cols; ++j) out[j] = to_float(from[j]);
    } else if (type == DType::i8) {
      const auto* from = static_cast<const int8_t*>(source) + at;
      for (int64_t j = 0; j < r.cols; ++j) out[j] = float(from[j]);
    } else {
      const auto* from = static_cast<const float*>(source) + at;
      for (int64_t j = 0; j < r.cols; ++j) out[j] = from[j];
    }
  }
}

struct Buffers {
  float a[kTileM * kTileK], b[kTileN * kTileK], c[kTileM * kTileN];
};

void store(const Gemm& g, const float* tile, int64_t m0, int64_t n0, int64_t m, int64_t n,
           bool first, void* c) {
  for (int64_t i = 0; i < m; ++i) {
    const float* from = tile + i * n;
    const int64_t at = (m0 + i) * g.ldc + n0;
    if (g.out == DType::bf16) {
      auto* to = static_cast<BFloat16*>(c) + at;
      for (int64_t j = 0; j < n; ++j) to[j] = to_bfloat16(from[j]);
    } else if (g.out == DType::i32) {
      auto* to = static_cast<int32_t*>(c) + at;
      for (int64_t j = 0; j < n; ++j) to[j] = (first ? 0 : to[j]) + int32_t(from[j]);
    } else {
      auto* to = static_cast<float*>(c) + at;
      for (int64_t j = 0; j < n; ++j) to[j] = (g.accumulate ? to[j] : 0.0f) + from[j];
    }
  }
}

void run_tile(const Gemm& g, const void* a, const void* b, void* c, int64_t m0, int64_t n0,
              Buffers& buffers) {
  const int64_t m = std::min(kTileM, g.m - m0), n = std::min(kTileN, g.n - n0);
  for (int64_t k0 = 0; k0 < g.k; k0 += kTileK) {
    const int64_t k = std::min(kTileK, g.k - k0);
    const bool a_transposed = g.form == MatmulForm::tn, b_transposed = g.form == MatmulForm::nt;
    widen(g.in, a,
          a_transposed ? Rectangle{k0 * g.lda + m0, k, m, g.lda}
                       : Rectangle{m0 * g.lda + k0, m, k, g.lda},
          buffers.a);
    widen(g.in, b,
          b_transposed ? Rectangle{n0 * g.ldb + k0, n, k, g.ldb}
                       : Rectangle{k0 * g.ldb + n0, k, n, g.ldb},
          buffers.b);
    // int8 sums are exact only within a tile, so they leave it each time as integers.
    const bool whole = g.in != DType::i8;
    const Gemm tile{DType::f32,           DType::f32, g.form,         m, n, k, a_transposed ? m : k,
                    b_transposed ? k : n, n,          whole && k0 > 0};
    if (!gemm_onednn(tile, buffers.a, buffers.b, buffers.c, 1))
      gemm_plain(tile, buffers.a, buffers.b, buffers.c);
    if (!whole || k0 + k == g.k) store(g, buffers.c, m0, n0, m, n, k0 == 0, c);
  }
}

}  // namespace

void gemm_widened(const Gemm& g, const void* a, const void* b, void* c, int threads) {
  const int64_t tiles_m = (g.m + kTileM - 1) / kTileM, tiles_n = (g.n + kTileN - 1) / kTileN;
#pragma omp parallel for schedule(dynamic) num_threads(omp_in_parallel() ? 1 : threads)
  for (int64_t tile = 0; tile < tiles_m * tiles_n; ++tile) {
    static thread_local const auto buffers = std::make_unique_for_overwrite<Buffers>();
    run_tile(g, a, b, c, tile % tiles_m * kTileM, tile / tiles_m * kTileN, *buffers);
  }
}

}  // namespace qat::cpu
