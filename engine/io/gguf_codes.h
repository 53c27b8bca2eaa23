// Blocks of GGUF types as the integer codes and numbers they are made of.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/io/gguf_blocks.h"

namespace qat {

/// Elements of a block of codes.
constexpr int64_t kCodeBlock = 32;

/// True for Q8_0, Q4_0 and Q4_1.
bool holds_codes(GgufType type);

/// A block: value = code * scale, of Q4_1 (code + 8) * scale + minimum. Codes of 4 bits are -8..7.
struct CodeBlock {
  int8_t codes[kCodeBlock];
  float scale;
  float minimum;  ///< 0 unless Q4_1
};

/// `to` gets the bytes of one block. scale and minimum must be exact in f16.
void pack_block(GgufType type, const CodeBlock& block, std::byte* to);
CodeBlock unpack_block(GgufType type, const std::byte* from);

}  // namespace qat
