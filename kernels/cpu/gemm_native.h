// Our own packed matrix product for f32, bf16 and (through f32, exactly) int8: every instruction
// set, any shape, K summed in an order fixed by the shape. See gemm_tiles.h for the innermost
// piece.
#pragma once

#include "kernels/cpu/gemm.h"

namespace qat::cpu {

/// On `threads` OpenMP threads, or the caller's within a parallel region.
void gemm_native(const Gemm& shape, const void* a, const void* b, void* c, int threads);

/// One step of a product: a block of rows times packed panels of b, over one block of K.
struct GemmStrip {
  const Gemm* shape;
  const void* a;
  void* c;
  const std::byte* panels;  ///< packed b of columns n0.. of this block of K
  int64_t n0, panel_count;
  int64_t m0, rows;  ///< rows <= kStripRows
  int64_t k0, k;
  bool first, last;  ///< of the blocks of K
  float* sums;       ///< where partial sums of a bf16 result wait; null if one block of K
  int64_t sums_stride;
  std::byte* temp;  ///< GemmEngine::temp_bytes of the running thread
};

inline constexpr int64_t kStripRows = 128;

/// The parts of the product that are compiled for each instruction set.
struct GemmEngine {
  int64_t element_bytes;  ///< of a packed element
  int64_t k_step;         ///< K is padded to a multiple of it
  int64_t k_block;        ///< most of K in one block
  size_t temp_bytes;
  /// Packs 32 columns of b from column n0, rows k0 .. k0 + k.
  void (*pack_panel)(const Gemm&, const void* b, int64_t n0, int64_t k0, int64_t k,
                     std::byte* panel, std::byte* temp);
  void (*run_strip)(const GemmStrip&);
};

const GemmEngine& gemm_engine_sse2();
const GemmEngine& gemm_engine_avx2();
const GemmEngine& gemm_engine_avx512();
const GemmEngine& gemm_engine_bf16();
const GemmEngine& gemm_engine_amx();

}  // namespace qat::cpu
