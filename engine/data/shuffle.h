// A permutation of [0, count) by (seed, epoch) in no memory: a Feistel network over the next even
// power of two, walked until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite
// domains", 2002). The round function is Philox, so the order depends on its counters only.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/core/random.h"

namespace qat {

/// The element at place `index` (< count) of the permutation; a bijection for every seed and epoch.
inline uint64_t shuffled(uint64_t index, uint64_t count, uint64_t seed, uint64_t epoch) {
  constexpr uint64_t kRounds = 8;
  if (count < 2) return index;
  const int half = (std::bit_width(count - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (philox(seed, epoch * kRounds + round, right)[0] & mask);
      left = right;
      right = mixed;
    }
    index = left << half | right;
  } while (index >= count);
  return index;
}

}  // namespace qat
