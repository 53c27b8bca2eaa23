// Sixteen random bits an element, by counters (see kernels/random.h).
#pragma once

#include "kernels/cpu/vector/lanes.h"

namespace qat::cpu::QAT_LANES {
namespace {

constexpr int kRandomBlock = 256;
constexpr int kRandomRun = 128;  // elements that one round of sixteen counters serves

/// Sixteen random bits for each element of [first, first + 256), first a multiple of 256: those of
/// philox(seed, step, counter), counter = element / 128 * 16 + element % 16; word element / 16 % 4;
/// lower half for the first 64 of 128 elements, upper half for the others.
void random_halves(uint64_t seed, int64_t step, int64_t first, uint32_t* halves) {
  for (int run = 0; run < kRandomBlock / kRandomRun; ++run) {
    uint32_t c0[16], c1[16], c2[16], c3[16];
    for (int i = 0; i < 16; ++i) {
      const uint64_t counter = uint64_t(first / kRandomRun + run) * 16 + uint64_t(i);
      c0[i] = uint32_t(counter);
      c1[i] = uint32_t(counter >> 32);
      c2[i] = uint32_t(uint64_t(step));
      c3[i] = uint32_t(uint64_t(step) >> 32);
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < 16; ++i) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c0[i], p1 = uint64_t(0xCD9E8D57u) * c2[i];
        c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ k0;
        c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
        c1[i] = uint32_t(p1);
        c3[i] = uint32_t(p0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    uint32_t* out = halves + run * kRandomRun;
    for (int i = 0; i < 16; ++i) {
      out[i] = c0[i] & 0xFFFFu;
      out[i + 16] = c1[i] & 0xFFFFu;
      out[i + 32] = c2[i] & 0xFFFFu;
      out[i + 48] = c3[i] & 0xFFFFu;
      out[i + 64] = c0[i] >> 16;
      out[i + 80] = c1[i] >> 16;
      out[i + 96] = c2[i] >> 16;
      out[i + 112] = c3[i] >> 16;
    }
  }
}

}  // namespace
}  // namespace qat::cpu::QAT_LANES
