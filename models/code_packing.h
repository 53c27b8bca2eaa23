// Low-bit codes in 32-bit words as compressed-tensors, GPTQ and AWQ pack them: each code becomes
// unsigned by adding 2^(bits-1), lowest bits of a word first. For 2, 4 and 8 bits no code straddles
// two words.
#pragma once

#include <cstdint>

namespace qat {

/// True for the widths that pack (2, 4, 8).
inline bool packs(int bits) {
  return bits == 2 || bits == 4 || bits == 8;
}

/// Words that `count` codes take.
inline int64_t packed_words(int64_t count, int bits) {
  return (count * bits + 31) / 32;
}

/// words [rows, packed_words(columns)] of codes [rows, columns]; what is left of a last word is 0.
void pack_rows(const int8_t* codes, int64_t rows, int64_t columns, int bits, int32_t* words);
void unpack_rows(const int32_t* words, int64_t rows, int64_t columns, int bits, int8_t* codes);

/// Packed along the rows: words [packed_words(rows), columns] (zero points of compressed-tensors,
/// GPTQ's weights).
void pack_columns(const int8_t* codes, int64_t rows, int64_t columns, int bits, int32_t* words);
void unpack_columns(const int32_t* words, int64_t rows, int64_t columns, int bits, int8_t* codes);

/// AWQ's order: the nibbles of a word, lowest first, hold columns 0, 2, 4, 6, 1, 3, 5, 7 of eight.
/// words [rows, columns / 8]; columns a multiple of 8.
void pack_interleaved(const int8_t* codes, int64_t rows, int64_t columns, int32_t* words);
void unpack_interleaved(const int32_t* words, int64_t rows, int64_t columns, int8_t* codes);

/// out [columns, rows] of values [rows, columns].
template <class T>
void transpose(const T* values, int64_t rows, int64_t columns, T* out) {
  constexpr int64_t kBlock = 64;  // both sides of a block stay in the cache
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock)
    for (int64_t c0 = 0; c0 < columns; c0 += kBlock)
      for (int64_t r = r0; r < rows && r < r0 + kBlock; ++r)
        for (int64_t c = c0; c < columns && c < c0 + kBlock; ++c)
          out[c * rows + r] = values[r * columns + c];
}

}  // namespace qat
