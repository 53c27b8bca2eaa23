#include "engine/io/gguf_blocks.h"

#include <fmt/format.h>

#include <cstring>

#include "engine/core/error.h"
#include "kernels/float_types.h"

namespace qat {
namespace {

struct Row {
  uint32_t id;
  GgufBlock block;
};
// Sizes of every type must be known to check the offsets of a file, readable or not.
constexpr Row kBlocks[] = {
    {0, {"F32", 1, 4, true}},          {1, {"F16", 1, 2, true}},
    {2, {"Q4_0", 32, 18, true}},       {3, {"Q4_1", 32, 20, true}},
    {6, {"Q5_0", 32, 22, true}},       {7, {"Q5_1", 32, 24, true}},
    {8, {"Q8_0", 32, 34, true}},       {9, {"Q8_1", 32, 40, false}},
    {10, {"Q2_K", 256, 84, false}},    {11, {"Q3_K", 256, 110, false}},
    {12, {"Q4_K", 256, 144, true}},    {13, {"Q5_K", 256, 176, true}},
    {14, {"Q6_K", 256, 210, true}},    {15, {"Q8_K", 256, 292, false}},
    {16, {"IQ2_XXS", 256, 66, false}}, {17, {"IQ2_XS", 256, 74, false}},
    {18, {"IQ3_XXS", 256, 98, false}}, {19, {"IQ1_S", 256, 50, false}},
    {20, {"IQ4_NL", 32, 18, false}},   {21, {"IQ3_S", 256, 110, false}},
    {22, {"IQ2_S", 256, 82, false}},   {23, {"IQ4_XS", 256, 136, false}},
    {24, {"I8", 1, 1, false}},         {25, {"I16", 1, 2, false}},
    {26, {"I32", 1, 4, false}},        {27, {"I64", 1, 8, false}},
    {28, {"F64", 1, 8, false}},        {29, {"IQ1_M", 256, 56, false}},
    {30, {"BF16", 1, 2, true}},        {34, {"TQ1_0", 256, 54, false}},
    {35, {"TQ2_0", 256, 66, false}},   {39, {"MXFP4", 32, 17, false}},
};

uint8_t byte_at(const std::byte* from, int i) {
  return std::to_integer<uint8_t>(from[i]);
}

float half_at(const std::byte* from, int offset) {
  Float16 value;
  std::memcpy(&value, from + offset, 2);
  return to_float(value);
}

void decode_q8_0(const std::byte* from, float* out) {
  const float d = half_at(from, 0);
  for (int i = 0; i < 32; ++i) out[i] = float(int8_t(byte_at(from, 2 + i))) * d;
}

void decode_q4_0(const std::byte* from, float* out) {
  const float d = half_at(from, 0);
  for (int i = 0; i < 16; ++i) {
    const int pair = byte_at(from, 2 + i);
    out[i] = float((pair & 15) - 8) * d;
    out[i + 16] = float((pair >> 4) - 8) * d;
  }
}

void decode_q4_1(const std::byte* from, float* out) {
  const float d = half_at(from, 0), m = half_at(from, 2);
  for (int i = 0; i < 16; ++i) {
    const int pair = byte_at(from, 4 + i);
    out[i] = float(pair & 15) * d + m;
    out[i + 16] = float(pair >> 4) * d + m;
  }
}

// The fifth bits of the 32 elements are the bits of one 32-bit word.
void decode_q5_0(const std::byte* from, float* out) {
  const float d = half_at(from, 0);
  uint32_t high;
  std::memcpy(&high, from + 2, 4);
  for (int i = 0; i < 16; ++i) {
    const int pair = byte_at(from, 6 + i);
    out[i] = float(((pair & 15) | int((high >> i) & 1) << 4) - 16) * d;
    out[i + 16] = float(((pair >> 4) | int((high >> (i + 16)) & 1) << 4) - 16) * d;
  }
}

void decode_q5_1(const std::byte* from, float* out) {
  const float d = half_at(from, 0), m = half_at(from, 2);
  uint32_t high;
  std::memcpy(&high, from + 4, 4);
  for (int i = 0; i < 16; ++i) {
    const int pair = byte_at(from, 8 + i);
    out[i] = float((pair & 15) | int((high >> i) & 1) << 4) * d + m;
    out[i + 16] = float((pair >> 4) | int((high >> (i + 16)) & 1) << 4) * d + m;
  }
}

void decode_q4_k(const std::byte* from, float* out) {
  const float d = half_at(from, 0), dmin = half_at(from, 2);
  const std::byte* nibbles = from + 16;
  for (int j = 0; j < 8; ++j) {
    const KScaleMinimum s = k_scale_minimum(from + 4, j);
    const float scale = d * float(s.scale), min = dmin * float(s.minimum);
    for (int l = 0; l < 32; ++l) {
      const int pair = byte_at(nibbles, 32 * (j / 2) + l);
      out[32 * j + l] = scale * float(j % 2 ? pair >> 4 : pair & 15) - min;
    }
  }
}

void decode_q5_k(const std::byte* from, float* out) {
  const float d = half_at(from, 0), dmin = half_at(from, 2);
  const std::byte *high = from + 16, *nibbles = from + 48;
  for (int j = 0; j < 8; ++j) {
    const KScaleMinimum s = k_scale_minimum(from + 4, j);
    const float scale = d * float(s.scale), min = dmin * float(s.minimum);
    for (int l = 0; l < 32; ++l) {
      const int pair = byte_at(nibbles, 32 * (j / 2) + l);
      const int code = (j % 2 ? pair >> 4 : pair & 15) | ((byte_at(high, l) >> j) & 1) << 4;
      out[32 * j + l] = scale * float(code) - min;
    }
  }
}

void decode_q6_k(const std::byte* from, float* out) {
  const std::byte *low = from, *high = from + 128, *scales = from + 192;
  const float d = half_at(from, 208);
  for (int half = 0; half < 2; ++half)
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int l = 0; l < 32; ++l) {
        const int pair = byte_at(low, 64 * half + 32 * (quarter % 2) + l);
        const int top = (byte_at(high, 32 * half + l) >> (2 * quarter)) & 3;
        const int code = ((quarter < 2 ? pair & 15 : pair >> 4) | top << 4) - 32;
        const int8_t scale = int8_t(byte_at(scales, 8 * half + 2 * quarter + l / 16));
        out[128 * half + 32 * quarter + l] = d * float(scale) * float(code);
      }
}

}  // namespace

KScaleMinimum k_scale_minimum(const std::byte* s, int j) {
  if (j < 4) return {byte_at(s, j) & 63, byte_at(s, j + 4) & 63};
  return {(byte_at(s, j + 4) & 15) | ((byte_at(s, j - 4) >> 6) << 4),
          (byte_at(s, j + 4) >> 4) | ((byte_at(s, j) >> 6) << 4)};
}

const GgufBlock* gguf_block(uint32_t type) {
  for (const Row& row : kBlocks)
    if (row.id == type) return &row.block;
  return nullptr;
}

std::string gguf_type_name(uint32_t type) {
  const GgufBlock* block = gguf_block(type);
  return block ? fmt::format("{} ({})", block->name, type) : fmt::format("type {}", type);
}

void decode_blocks(GgufType type, const std::byte* from, int64_t blocks, float* out) {
  const auto each = [&](int64_t bytes, int64_t elements, void (*decode)(const std::byte*, float*)) {
    for (int64_t i = 0; i < blocks; ++i) decode(from + i * bytes, out + i * elements);
  };
  switch (type) {
    case GgufType::f32:
      std::memcpy(out, from, size_t(blocks) * 4);
      return;
    case GgufType::f16:
      for (int64_t i = 0; i < blocks; ++i) out[i] = half_at(from + 2 * i, 0);
      return;
    case GgufType::bf16:
      for (int64_t i = 0; i < blocks; ++i) {
        BFloat16 value;
        std::memcpy(&value, from + 2 * i, 2);
        out[i] = to_float(value);
      }
      return;
    case GgufType::q4_0:
      return each(18, 32, decode_q4_0);
    case GgufType::q4_1:
      return each(20, 32, decode_q4_1);
    case GgufType::q5_0:
      return each(22, 32, decode_q5_0);
    case GgufType::q5_1:
      return each(24, 32, decode_q5_1);
    case GgufType::q8_0:
      return each(34, 32, decode_q8_0);
    case GgufType::q4_k:
      return each(144, 256, decode_q4_k);
    case GgufType::q5_k:
      return each(176, 256, decode_q5_k);
    case GgufType::q6_k:
      return each(210, 256, decode_q6_k);
  }
  internal_error("decode_blocks: {} is not decodable", gguf_type_name(uint32_t(type)));
}

}  // namespace qat
