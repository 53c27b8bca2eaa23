// Counter-based random numbers: a value depends on its counters only, never on call order,
// so that any thread count, recomputation and resume give the same bits.
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"

namespace qat {

/// Four 32-bit words for one (key, counter).
QAT_HOST_DEVICE std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_high,
                                               uint64_t counter_low) {
  uint32_t c0 = uint32_t(counter_low), c1 = uint32_t(counter_low >> 32);
  uint32_t c2 = uint32_t(counter_high), c3 = uint32_t(counter_high >> 32);
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// Uniform in [0, 1) with 24 random bits.
inline float uniform01(uint32_t word) {
  return float(word >> 8) * 0x1p-24f;
}

/// Standard normal from two words (Box-Muller).
inline float normal01(uint32_t a, uint32_t b) {
  const double u = (double(a) + 1.0) * 0x1p-32, v = double(b) * 0x1p-32;
  return float(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
}

}  // namespace qat
