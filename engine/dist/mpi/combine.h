// How the contributions of the ranks become one: always in the order of the ranks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

namespace qat {

inline float combine(float a, float b) {
  return a + b;
}
inline double combine(double a, double b) {
  return a + b;
}
/// Integers are only ever compared: what ranks know best, flags, counts.
inline int64_t combine(int64_t a, int64_t b) {
  return std::max(a, b);
}

/// out[i] = the combination of sources[0][i], sources[1][i], ..., in this order, for `count` items
/// from `begin` on. out may be one of the sources.
template <class T>
void combine_rows(std::span<const T* const> sources, int64_t begin, int64_t count, T* out) {
  constexpr int64_t kBlock = 2048;  // stays in the nearest cache between one source and the next
  T block[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t n = std::min(kBlock, count - done), first = begin + done;
    if (sources.size() == 1) {
      std::memmove(out + first, sources[0] + first, size_t(n) * sizeof(T));
      continue;
    }
    const T *a = sources[0] + first, *b = sources[1] + first;
    for (int64_t i = 0; i < n; ++i) block[i] = combine(a[i], b[i]);
    for (size_t s = 2; s < sources.size(); ++s) {
      const T* next = sources[s] + first;
      for (int64_t i = 0; i < n; ++i) block[i] = combine(block[i], next[i]);
    }
    std::memcpy(out + first, block, size_t(n) * sizeof(T));
  }
}

}  // namespace qat
