// A query head against the cache with the registers of simd.h, with running maximum and sum over
// blocks of keys: included once by each instruction set's file, which names QAT_ATTEND_CACHED.
#pragma once

#include <math.h>

#include "kernels/cpu/attention_cached_head.h"
#include "kernels/cpu/simd.h"

namespace qat::cpu {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

template <class T>
QAT_INLINE float dot(const float* a, const T* b, int64_t count) {
  Floats sums = all(0.0f);
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes) sums = fused(load(a + d), load(b + d), sums);
  float rest = 0.0f;
  for (; d < count; ++d) rest += a[d] * to_float(b[d]);
  return sum(sums) + rest;
}

/// y += weight * x.
template <class T>
QAT_INLINE void add_row(float* y, float weight, const T* x, int64_t count) {
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes)
    store(y + d, fused(all(weight), load(x + d), load(y + d)));
  for (; d < count; ++d) y[d] += weight * to_float(x[d]);
}

template <class T>
void widen_row(const std::byte* from, float* to, int64_t count) {
  const T* row = reinterpret_cast<const T*>(from);
  for (int64_t d = 0; d < count; ++d) to[d] = to_float(row[d]);
}

template <class T>
void narrow_row(const float* from, float factor, std::byte* to, int64_t count) {
  T* row = reinterpret_cast<T*>(to);
  for (int64_t d = 0; d < count; ++d) row[d] = narrow<T>(from[d] * factor);
}

template <class Cached>
void attend(const CachedHead& h) {
  const auto* keys = reinterpret_cast<const Cached*>(h.k_cache);
  const auto* values = reinterpret_cast<const Cached*>(h.v_cache);
  float* q = h.temp;
  float* y = q + h.head_dim;
  float* weights = y + h.head_dim;
  if (h.type == DType::bf16)
    widen_row<BFloat16>(h.q, q, h.head_dim);
  else
    widen_row<float>(h.q, q, h.head_dim);
  for (int64_t d = 0; d < h.head_dim; ++d) y[d] = 0.0f;
  const float factor = h.scale * kLog2E;
  float top = -INFINITY, total = 0.0f;
  for (int64_t start = 0; start < h.keys; start += kCachedKeys) {
    const int64_t count = h.keys - start < kCachedKeys ? h.keys - start : kCachedKeys;
    float now = top;
    for (int64_t j = 0; j < count; ++j) {
      weights[j] = dot(q, keys + (start + j) * h.stride, h.head_dim) * factor;
      now = weights[j] > now ? weights[j] : now;
    }
    for (int64_t j = count; j < kCachedKeys; ++j) weights[j] = -INFINITY;
    // Scores that are all NaN leave no maximum; they are NaN in the sum all the same.
    const float shift = now == -INFINITY ? 0.0f : now;
    Floats sums = all(0.0f);
    for (int64_t j = 0; j < kCachedKeys; j += kLanes) {
      const Floats p = exp2_of(subtract(load(weights + j), all(shift)));
      store(weights + j, p);
      sums = add(sums, p);
    }
    const float shrink = exp2f(top - shift);
    total = total * shrink + sum(sums);
    for (int64_t d = 0; d < h.head_dim; ++d) y[d] *= shrink;
    for (int64_t j = 0; j < count; ++j)
      add_row(y, weights[j], values + (start + j) * h.stride, h.head_dim);
    top = now;
  }
  if (h.type == DType::bf16)
    narrow_row<BFloat16>(y, 1.0f / total, h.y, h.head_dim);
  else
    narrow_row<float>(y, 1.0f / total, h.y, h.head_dim);
}

}  // namespace

void QAT_ATTEND_CACHED(const CachedHead& head) {
  if (head.cache_type == DType::bf16)
    attend<BFloat16>(head);
  else
    attend<float>(head);
}

}  // namespace qat::cpu
