#include "models/code_packing.h"

#include <algorithm>

namespace qat {
namespace {

uint32_t to_unsigned(int8_t code, int bits) {
  return uint32_t(int(code) + (1 << (bits - 1))) & ((1u << bits) - 1);
}

int8_t to_signed(uint32_t field, int bits) {
  return int8_t(int(field & ((1u << bits) - 1)) - (1 << (bits - 1)));
}

constexpr int64_t kInterleaved[8] = {0, 2, 4, 6, 1, 3, 5, 7};

}  // namespace

void pack_rows(const int8_t* codes, int64_t rows, int64_t columns, int bits, int32_t* words) {
  const int64_t in_word = 32 / bits, width = packed_words(columns, bits);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t w = 0; w < width; ++w) {
      const int64_t first = w * in_word, n = std::min(in_word, columns - first);
      uint32_t word = 0;
      for (int64_t j = 0; j < n; ++j)
        word |= to_unsigned(codes[row * columns + first + j], bits) << (j * bits);
      words[row * width + w] = int32_t(word);
    }
}

void unpack_rows(const int32_t* words, int64_t rows, int64_t columns, int bits, int8_t* codes) {
  const int64_t in_word = 32 / bits, width = packed_words(columns, bits);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < columns; ++k) {
      const uint32_t word = uint32_t(words[row * width + k / in_word]);
      codes[row * columns + k] = to_signed(word >> (k % in_word * bits), bits);
    }
}

void pack_columns(const int8_t* codes, int64_t rows, int64_t columns, int bits, int32_t* words) {
  const int64_t in_word = 32 / bits, height = packed_words(rows, bits);
  for (int64_t w = 0; w < height; ++w)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t first = w * in_word, n = std::min(in_word, rows - first);
      uint32_t word = 0;
      for (int64_t j = 0; j < n; ++j)
        word |= to_unsigned(codes[(first + j) * columns + c], bits) << (j * bits);
      words[w * columns + c] = int32_t(word);
    }
}

void unpack_columns(const int32_t* words, int64_t rows, int64_t columns, int bits, int8_t* codes) {
  const int64_t in_word = 32 / bits;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < columns; ++c) {
      const uint32_t word = uint32_t(words[row / in_word * columns + c]);
      codes[row * columns + c] = to_signed(word >> (row % in_word * bits), bits);
    }
}

void pack_interleaved(const int8_t* codes, int64_t rows, int64_t columns, int32_t* words) {
  for (int64_t w = 0; w < rows * columns / 8; ++w) {
    uint32_t word = 0;
    for (int64_t p = 0; p < 8; ++p)
      word |= to_unsigned(codes[w * 8 + kInterleaved[p]], 4) << (4 * p);
    words[w] = int32_t(word);
  }
}

void unpack_interleaved(const int32_t* words, int64_t rows, int64_t columns, int8_t* codes) {
  for (int64_t w = 0; w < rows * columns / 8; ++w)
    for (int64_t p = 0; p < 8; ++p)
      codes[w * 8 + kInterleaved[p]] = to_signed(uint32_t(words[w]) >> (4 * p), 4);
}

}  // namespace qat
