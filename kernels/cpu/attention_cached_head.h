// One query head of one token against the cache, for each instruction set.
#pragma once

#include "kernels/view.h"

namespace qat::cpu {

inline constexpr int64_t kCachedKeys = 128;  ///< keys weighed at a time

/// The grid of cached rows of codes; scales and zero points of a row follow each other.
struct CachedGrid {
  int bits;
  int64_t group;   ///< elements that share a scale
  int64_t scales;  ///< of a row
  int64_t column;  ///< of the row where the head begins
  DType scale_type;
  const std::byte *k_scale, *v_scale;
  const int8_t *k_zero, *v_zero;  ///< null: 0
};

/// `keys` rows of the caches, `stride` elements apart, are seen; q, y and the cached rows hold
/// head_dim elements. temp holds cached_head_floats(head_dim) floats. With a grid the caches are
/// whole rows of codes, `stride` bytes apart.
struct CachedHead {
  DType type, cache_type;
  const std::byte *q, *k_cache, *v_cache;
  std::byte* y;
  int64_t keys, stride, head_dim;
  float scale;
  float* temp;
  const CachedGrid* grid;
};

inline int64_t cached_head_floats(int64_t head_dim) {
  return 2 * head_dim + kCachedKeys + kCachedKeys * head_dim;
}

using AttendCached = void (*)(const CachedHead&);

void attend_cached_sse2(const CachedHead&);
void attend_cached_avx2(const CachedHead&);
void attend_cached_avx512(const CachedHead&);

}  // namespace qat::cpu
