// A strip of a product with the tiles of gemm_tiles.h: included once by each instruction set's
// file, which names the engine function QAT_GEMM_ENGINE.
#pragma once

#include "kernels/cpu/gemm_native.h"
#include "kernels/cpu/gemm_tiles.h"

namespace qat::cpu {
namespace {

constexpr int64_t kBlockK = kPair == 2 ? 640 : 512;

struct StripTemp {
  alignas(64) Element a[kStripRows * kBlockK];
  Element rows[kTile * kBlockK];
  Element packed[kTile * kBlockK];
  float tile[kTile * kTile];
};

void pack_panel(const Gemm& g, const void* b, int64_t n0, int64_t k0, int64_t k, std::byte* panel,
                std::byte* temp_bytes) {
  auto* temp = reinterpret_cast<StripTemp*>(temp_bytes);
  auto* out = reinterpret_cast<Element*>(panel);
  const int64_t cols = g.n - n0 < kTile ? g.n - n0 : kTile, depth = padded(k, kStep);
  if (g.form == MatmulForm::nt)
    pack_columns(gather(b, g.in, n0 * g.ldb + k0, g.ldb, cols, k, kTile, depth, temp->rows), depth,
                 out);
  else
    pack_rows(gather(b, g.in, k0 * g.ldb + n0, g.ldb, k, cols, depth, kTile, temp->rows), depth,
              out);
}

/// 32 rows of a from row m, as rows of `depth` elements.
Rows rows_of_a(const GemmStrip& s, int64_t m, int64_t depth, Element* out, StripTemp* temp) {
  const Gemm& g = *s.shape;
  const int64_t rows = g.m - m < kTile ? g.m - m : kTile;
  if (g.form != MatmulForm::tn)
    return gather(s.a, g.in, m * g.lda + s.k0, g.lda, rows, s.k, kTile, depth, out);
  const Rows columns =
      gather(s.a, g.in, s.k0 * g.lda + m, g.lda, s.k, rows, depth, kTile, temp->rows);
  pack_transposed(columns, depth, temp->packed, out);
  return {out, depth};
}

/// Adds a tile of sums to c, or rounds it into c, within the bounds of c.
void put_tile(const GemmStrip& s, const float* tile, int64_t stride, int64_t m, int64_t n) {
  const Gemm& g = *s.shape;
  const int64_t rows = g.m - m < kTile ? g.m - m : kTile, cols = g.n - n < kTile ? g.n - n : kTile;
  for (int64_t i = 0; i < rows; ++i, tile += stride) {
    const int64_t at = (m + i) * g.ldc + n;
    int64_t j = 0;
    if (g.out == DType::bf16) {
      auto* c = static_cast<BFloat16*>(s.c) + at;
      for (; j + kLanes <= cols; j += kLanes) put(c + j, load(tile + j));
      for (; j < cols; ++j) c[j] = to_bfloat16(tile[j]);
    } else if (g.out == DType::i32) {
      // A block of K holds at most 512 products of int8: its sum is a whole number below 2^24.
      auto* c = static_cast<int32_t*>(s.c) + at;
      for (; j < cols; ++j) c[j] = (s.first ? 0 : c[j]) + int32_t(tile[j]);
    } else {
      auto* c = static_cast<float*>(s.c) + at;
      const bool add_to = g.accumulate || !s.first;
      for (; j < cols; ++j) c[j] = add_to ? c[j] + tile[j] : tile[j];
    }
  }
}

void run_strip(const GemmStrip& s) {
  const Gemm& g = *s.shape;
  auto* temp = reinterpret_cast<StripTemp*>(s.temp);
  const int64_t depth = padded(s.k, kStep);
  const TileScope scope;
  constexpr int64_t kMostTiles = kStripRows / kTile;
  Rows rows[kMostTiles];
  const int64_t tiles = (s.rows + kTile - 1) / kTile;
  for (int64_t t = 0; t < tiles; ++t)
    rows[t] = rows_of_a(s, s.m0 + t * kTile, depth, temp->a + t * kTile * kBlockK, temp);
  // Along the columns for each row of tiles: results are written as a few long runs, which spares
  // the address translation, and the left rows stay in the first cache.
  for (int64_t t = 0; t < tiles; ++t)
    for (int64_t p = 0; p < s.panel_count; ++p) {
      const auto* panel = reinterpret_cast<const Element*>(s.panels) + p * kTile * depth;
      const int64_t m = s.m0 + t * kTile, n = s.n0 + p * kTile;
      if (g.out == DType::f32 && m + kTile <= g.m && n + kTile <= g.n) {
        float* c = static_cast<float*>(s.c) + m * g.ldc + n;
        multiply_tile(rows[t].at, rows[t].stride, panel, depth, c, g.ldc,
                      g.accumulate || !s.first ? Start::add : Start::zero, c + kTile);
      } else if (s.sums != nullptr) {
        float* sums = s.sums + t * kTile * s.sums_stride + p * kTile;
        multiply_tile(rows[t].at, rows[t].stride, panel, depth, sums, s.sums_stride,
                      s.first ? Start::zero : Start::add, sums + kTile);
        if (s.last) put_tile(s, sums, s.sums_stride, m, n);
      } else {
        multiply_tile(rows[t].at, rows[t].stride, panel, depth, temp->tile, kTile, Start::zero);
        put_tile(s, temp->tile, kTile, m, n);
      }
    }
}

}  // namespace

const GemmEngine& QAT_GEMM_ENGINE() {
  static constexpr GemmEngine engine{sizeof(Element),   kStep,      kBlockK,
                                     sizeof(StripTemp), pack_panel, run_strip};
  return engine;
}

}  // namespace qat::cpu
