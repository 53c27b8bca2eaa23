// One query head of one token against the cache, for each instruction set.
#pragma once

#include "kernels/view.h"

namespace qat::cpu {

inline constexpr int64_t kCachedKeys = 128;  ///< keys weighed at a time

/// `keys` rows of the caches, `stride` elements apart, are seen; q, y and the cached rows hold
/// head_dim elements. temp holds cached_head_floats(head_dim) floats.
struct CachedHead {
  DType type, cache_type;
  const std::byte *q, *k_cache, *v_cache;
  std::byte* y;
  int64_t keys, stride, head_dim;
  float scale;
  float* temp;
};

inline int64_t cached_head_floats(int64_t head_dim) {
  return 2 * head_dim + kCachedKeys;
}

using AttendCached = void (*)(const CachedHead&);

void attend_cached_sse2(const CachedHead&);
void attend_cached_avx2(const CachedHead&);
void attend_cached_avx512(const CachedHead&);

}  // namespace qat::cpu
