#include "engine/io/gguf_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/core/error.h"
#include "kernels/float_types.h"
#include "kernels/quant_math.h"

namespace qat {
namespace {

constexpr int kHalf = 16;  // of a block of 32

bool put_half(float value, std::byte* to) {
  const Float16 half = to_float16(value);
  std::memcpy(to, &half, 2);
  return to_float(half) == value;
}

float half_at(const std::byte* from) {
  Float16 half;
  std::memcpy(&half, from, 2);
  return to_float(half);
}

uint8_t byte_at(const std::byte* from, int i) {
  return std::to_integer<uint8_t>(from[i]);
}

// Byte j holds elements j and j + 16.
void pack_halves(const int8_t* codes, std::byte* to) {
  for (int j = 0; j < kHalf; ++j) to[j] = std::byte(pack_int4(codes[j], codes[j + kHalf]));
}
void unpack_halves(const std::byte* from, int8_t* codes) {
  for (int j = 0; j < kHalf; ++j) {
    codes[j] = int8_t(low_int4(byte_at(from, j)));
    codes[j + kHalf] = int8_t(high_int4(byte_at(from, j)));
  }
}

// The low four bits as in Q4_0; the fifth bits are those of one 32-bit word.
void pack_q5_0(const int8_t* codes, std::byte* to) {
  uint32_t high = 0;
  for (int j = 0; j < kHalf; ++j) {
    const int low = codes[j] + 16, upper = codes[j + kHalf] + 16;
    to[4 + j] = std::byte((low & 15) | (upper & 15) << 4);
    high |= uint32_t(low >> 4 & 1) << j | uint32_t(upper >> 4 & 1) << (j + kHalf);
  }
  std::memcpy(to, &high, 4);
}
void unpack_q5_0(const std::byte* from, int8_t* codes) {
  uint32_t high;
  std::memcpy(&high, from, 4);
  for (int j = 0; j < kHalf; ++j) {
    const int pair = byte_at(from, 4 + j);
    codes[j] = int8_t(((pair & 15) | int(high >> j & 1) << 4) - 16);
    codes[j + kHalf] = int8_t(((pair >> 4) | int(high >> (j + kHalf) & 1) << 4) - 16);
  }
}

// Numbers as whole multiples of one number of f16: how K-types store scales and minima.
struct Multiples {
  float unit;
  int times[kMostGroups];
};

// The unit need not be the one they were made of, as long as it gives the same numbers; where they
// were trained, the largest is the largest multiple. False if there is none.
bool find_multiples(const float* numbers, int count, int low, int high, Multiples& found) {
  float peak = 0.0f;
  for (int j = 0; j < count; ++j)
    if (std::fabs(numbers[j]) > std::fabs(peak)) peak = numbers[j];
  found = {};
  if (peak == 0.0f) return true;
  const auto fits = [&](int times) {
    if (times < low || times > high || times == 0) return false;
    const float unit = to_float(to_float16(peak / float(times)));
    if (!(std::fabs(unit) > 0.0f) || !std::isfinite(unit) || unit * float(times) != peak)
      return false;
    for (int j = 0; j < count; ++j) {
      const float multiple = std::nearbyint(numbers[j] / unit);
      if (multiple < float(low) || multiple > float(high) || multiple * unit != numbers[j])
        return false;
      found.times[j] = int(multiple);
    }
    found.unit = unit;
    return true;
  };
  for (int size = std::max(-low, high); size > 0; --size)
    if (fits(-size) || fits(size)) return true;
  return false;
}

// 6-bit scales and minima of eight sub-blocks in 12 bytes.
void pack_scales(const int* scales, const int* minima, std::byte* to) {
  uint8_t s[12] = {};
  for (int j = 0; j < 4; ++j) {
    s[j] = uint8_t(scales[j] | (scales[j + 4] >> 4) << 6);
    s[j + 4] = uint8_t(minima[j] | (minima[j + 4] >> 4) << 6);
    s[j + 8] = uint8_t((scales[j + 4] & 15) | (minima[j + 4] & 15) << 4);
  }
  std::memcpy(to, s, sizeof s);
}

bool pack_q4_k(const int8_t* codes, const float* scales, const float* minima, std::byte* to) {
  float depths[8];
  for (int j = 0; j < 8; ++j) depths[j] = -minima[j];
  Multiples scale, depth;
  if (!find_multiples(scales, 8, 0, 63, scale) || !find_multiples(depths, 8, 0, 63, depth))
    return false;
  put_half(scale.unit, to);
  put_half(depth.unit, to + 2);
  pack_scales(scale.times, depth.times, to + 4);
  for (int pair = 0; pair < 4; ++pair)
    for (int l = 0; l < 32; ++l)
      to[16 + 32 * pair + l] =
          std::byte(pack_int4(codes[64 * pair + l], codes[64 * pair + 32 + l]));
  return true;
}

void unpack_q4_k(const std::byte* from, int8_t* codes, float* scales, float* minima) {
  const float d = half_at(from), depth = half_at(from + 2);
  for (int j = 0; j < 8; ++j) {
    const KScaleMinimum packed = k_scale_minimum(from + 4, j);
    scales[j] = d * float(packed.scale);
    minima[j] = 0.0f - depth * float(packed.minimum);
    for (int l = 0; l < 32; ++l) {
      const uint8_t pair = byte_at(from, 16 + 32 * (j / 2) + l);
      codes[32 * j + l] = int8_t(j % 2 ? high_int4(pair) : low_int4(pair));
    }
  }
}

bool pack_q6_k(const int8_t* codes, const float* scales, std::byte* to) {
  Multiples scale;
  if (!find_multiples(scales, 16, -128, 127, scale)) return false;
  std::memset(to, 0, 192);
  for (int half = 0; half < 2; ++half)
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int l = 0; l < 32; ++l) {
        const int code = codes[128 * half + 32 * quarter + l] + 32;
        to[64 * half + 32 * (quarter % 2) + l] |= std::byte((code & 15) << (quarter < 2 ? 0 : 4));
        to[128 + 32 * half + l] |= std::byte((code >> 4) << (2 * quarter));
      }
  for (int j = 0; j < 16; ++j) to[192 + j] = std::byte(uint8_t(int8_t(scale.times[j])));
  put_half(scale.unit, to + 208);
  return true;
}

void unpack_q6_k(const std::byte* from, int8_t* codes, float* scales) {
  const float d = half_at(from + 208);
  for (int j = 0; j < 16; ++j) scales[j] = d * float(int8_t(byte_at(from, 192 + j)));
  for (int half = 0; half < 2; ++half)
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int l = 0; l < 32; ++l) {
        const int pair = byte_at(from, 64 * half + 32 * (quarter % 2) + l);
        const int top = (byte_at(from, 128 + 32 * half + l) >> (2 * quarter)) & 3;
        codes[128 * half + 32 * quarter + l] =
            int8_t(((quarter < 2 ? pair & 15 : pair >> 4) | top << 4) - 32);
      }
}

}  // namespace

CodeLayout code_layout(GgufType type) {
  switch (type) {
    case GgufType::q8_0:
      return {32, 32, 8, false};
    case GgufType::q4_0:
      return {32, 32, 4, false};
    case GgufType::q4_1:
      return {32, 32, 4, true};
    case GgufType::q5_0:
      return {32, 32, 5, false};
    case GgufType::q4_k:
      return {256, 32, 4, true};
    case GgufType::q6_k:
      return {256, 16, 6, false};
    default:
      return {0, 0, 0, false};
  }
}

bool holds_codes(GgufType type) {
  return code_layout(type).group > 0;
}

bool pack_block(GgufType type, const int8_t* codes, const float* scales, const float* minima,
                std::byte* to) {
  switch (type) {
    case GgufType::q8_0:
      std::memcpy(to + 2, codes, 32);
      return put_half(scales[0], to);
    case GgufType::q4_0:
      pack_halves(codes, to + 2);
      return put_half(scales[0], to);
    case GgufType::q4_1:
      pack_halves(codes, to + 4);
      return put_half(scales[0], to) && put_half(minima[0], to + 2);
    case GgufType::q5_0:
      pack_q5_0(codes, to + 2);
      return put_half(scales[0], to);
    case GgufType::q4_k:
      return pack_q4_k(codes, scales, minima, to);
    case GgufType::q6_k:
      return pack_q6_k(codes, scales, to);
    default:
      internal_error("{} has no codes here", gguf_type_name(uint32_t(type)));
  }
}

void unpack_block(GgufType type, const std::byte* from, int8_t* codes, float* scales,
                  float* minima) {
  switch (type) {
    case GgufType::q8_0:
      std::memcpy(codes, from + 2, 32);
      scales[0] = half_at(from);
      return;
    case GgufType::q4_0:
      unpack_halves(from + 2, codes);
      scales[0] = half_at(from);
      return;
    case GgufType::q4_1:
      unpack_halves(from + 4, codes);
      scales[0] = half_at(from);
      minima[0] = half_at(from + 2);
      return;
    case GgufType::q5_0:
      unpack_q5_0(from + 2, codes);
      scales[0] = half_at(from);
      return;
    case GgufType::q4_k:
      return unpack_q4_k(from, codes, scales, minima);
    case GgufType::q6_k:
      return unpack_q6_k(from, codes, scales);
    default:
      internal_error("{} has no codes here", gguf_type_name(uint32_t(type)));
  }
}

}  // namespace qat
