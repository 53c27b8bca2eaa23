// The 16-bit float types and their conversions, rounding to nearest even, for host and device code.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace qat {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

QAT_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

QAT_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

QAT_HOST_DEVICE float to_float(float value) {
  return value;
}
QAT_HOST_DEVICE float to_float(BFloat16 value) {
  return float_of(uint32_t(value.bits) << 16);
}

QAT_HOST_DEVICE float to_float(Float16 value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return float_of(sign | 0x7F800000u | ((magnitude & 0x3FFu) << 13));
  if (magnitude >= 0x400u) return float_of(sign | ((magnitude << 13) + 0x38000000u));
  return float_of(sign | bits_of(float(magnitude) * 0x1p-24f));
}

/// NaN becomes the quiet NaN 0x7FC0; what lies above the largest finite value becomes infinity.
QAT_HOST_DEVICE BFloat16 to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FC0u};
  return {uint16_t((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

/// As to_bfloat16; subnormal results are kept.
QAT_HOST_DEVICE Float16 to_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {uint16_t(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {uint16_t(sign | 0x7C00u)};  // 65520 and more
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves units of 2^-24
    return {uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13))};
}

/// Conversion by target type, for code written once for f32 and bf16.
template <class T>
QAT_HOST_DEVICE T narrow(float value);
template <>
QAT_HOST_DEVICE float narrow<float>(float value) {
  return value;
}
template <>
QAT_HOST_DEVICE BFloat16 narrow<BFloat16>(float value) {
  return to_bfloat16(value);
}

}  // namespace qat
