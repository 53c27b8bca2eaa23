// The integer product where weights, and perhaps activations, have a scale for each group of a row.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace qat::cpu {

/// Outputs computed together: a panel of packed weights.
constexpr int64_t kInt8Panel = 32;
/// Tokens computed together.
constexpr int64_t kInt8Rows = 6;

/// A panel of weights as the inner loop reads them.
struct Int8Panel {
  const uint8_t* codes;  ///< [K/4][32][4], code + 128
  const float* scales;   ///< [G][32]
};

/// Some tokens against one panel: y[r][o] = sum over groups of scale * exact integer sum.
struct Int8Tile {
  Int8Panel panel;
  const int8_t* a;        ///< [rows][K]
  const int32_t* start;   ///< [rows][G], -128 * sum of a over the group: undoes the +128 of codes
  const float* scale_T;   ///< [rows][G], or [rows] when per_token
  std::byte* y;           ///< [rows][stride of y]
  int64_t rows, outputs;  ///< at most kInt8Rows, kInt8Panel
  int64_t inputs, groups, group, y_stride;
  bool per_token;
  DType y_type;
};

/// For processors with AVX512 VNNI.
void multiply_int8_tile(const Int8Tile& tile);
/// start[g] for one token.
void int8_group_starts(const int8_t* a, int64_t groups, int64_t group, int32_t* start);
/// Packs outputs [o0, o0 + count) of b_OK into codes [K/4][32][4]; missing outputs become zeros.
void pack_int8_panel(const int8_t* b_OK, int64_t inputs, int64_t o0, int64_t count, uint8_t* codes);

}  // namespace qat::cpu
