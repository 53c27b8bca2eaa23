#include "engine/io/gguf_codes.h"

#include <cstring>

#include "engine/core/error.h"
#include "kernels/float_types.h"
#include "kernels/quant_math.h"

namespace qat {
namespace {

constexpr int kHalf = int(kCodeBlock) / 2;

void put_half(float value, std::byte* to) {
  const Float16 half = to_float16(value);
  std::memcpy(to, &half, 2);
}

float half_at(const std::byte* from) {
  Float16 half;
  std::memcpy(&half, from, 2);
  return to_float(half);
}

// Byte j holds elements j and j + 16.
void pack_halves(const int8_t* codes, std::byte* to) {
  for (int j = 0; j < kHalf; ++j) to[j] = std::byte(pack_int4(codes[j], codes[j + kHalf]));
}
void unpack_halves(const std::byte* from, int8_t* codes) {
  for (int j = 0; j < kHalf; ++j) {
    codes[j] = int8_t(low_int4(std::to_integer<uint8_t>(from[j])));
    codes[j + kHalf] = int8_t(high_int4(std::to_integer<uint8_t>(from[j])));
  }
}

}  // namespace

bool holds_codes(GgufType type) {
  return type == GgufType::q8_0 || type == GgufType::q4_0 || type == GgufType::q4_1;
}

void pack_block(GgufType type, const CodeBlock& block, std::byte* to) {
  put_half(block.scale, to);
  switch (type) {
    case GgufType::q8_0:
      std::memcpy(to + 2, block.codes, size_t(kCodeBlock));
      return;
    case GgufType::q4_0:
      pack_halves(block.codes, to + 2);
      return;
    case GgufType::q4_1:
      put_half(block.minimum, to + 2);
      pack_halves(block.codes, to + 4);
      return;
    default:
      internal_error("{} has no codes here", gguf_type_name(uint32_t(type)));
  }
}

CodeBlock unpack_block(GgufType type, const std::byte* from) {
  CodeBlock block{};
  block.scale = half_at(from);
  switch (type) {
    case GgufType::q8_0:
      std::memcpy(block.codes, from + 2, size_t(kCodeBlock));
      break;
    case GgufType::q4_0:
      unpack_halves(from + 2, block.codes);
      break;
    case GgufType::q4_1:
      block.minimum = half_at(from + 2);
      unpack_halves(from + 4, block.codes);
      break;
    default:
      internal_error("{} has no codes here", gguf_type_name(uint32_t(type)));
  }
  return block;
}

}  // namespace qat
