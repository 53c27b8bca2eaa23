// Blocks of GGUF types as the integer codes and numbers they are made of.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/io/gguf_blocks.h"

namespace qat {

/// How a type's blocks hold codes; `group` is 0 for the types that are not taken apart.
struct CodeLayout {
  int64_t elements;  ///< of a block
  int64_t group;     ///< elements that share a scale
  int bits;
  bool minimum;  ///< value = (code + 2^(bits-1)) * scale + minimum, else code * scale

  int64_t groups() const { return elements / group; }
};
/// Q8_0, Q4_0, Q4_1, Q5_0, Q4_K and Q6_K.
CodeLayout code_layout(GgufType type);
bool holds_codes(GgufType type);

/// The most groups that a block has.
constexpr int64_t kMostGroups = 16;

/// Writes the bytes of one block. codes [elements], of b bits from -2^(b-1); scales [groups] and
/// minima [groups], null where the type has none. False if the type has no such scales or minima:
/// numbers of f16 (blocks of 32), small multiples of one (K-types).
bool pack_block(GgufType type, const int8_t* codes, const float* scales, const float* minima,
                std::byte* to);
void unpack_block(GgufType type, const std::byte* from, int8_t* codes, float* scales,
                  float* minima);

}  // namespace qat
