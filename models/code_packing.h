// Low-bit codes in 32-bit words as compressed-tensors packs them: each code becomes unsigned by
// adding 2^(bits-1), lowest bits of a word first. For 2, 4 and 8 bits no code straddles two words.
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

/// Zero points are packed along the rows: words [packed_words(rows), columns].
void pack_columns(const int8_t* codes, int64_t rows, int64_t columns, int bits, int32_t* words);
void unpack_columns(const int32_t* words, int64_t rows, int64_t columns, int bits, int8_t* codes);

}  // namespace qat
