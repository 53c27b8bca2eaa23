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

/// Cached rows that are numbers, where they lie.
template <class T>
struct PlainRows {
  using Number = T;
  const T* rows;
  int64_t stride;

  QAT_INLINE const T* block(int64_t start, int64_t) const { return rows + start * stride; }
};

/// The values of cached codes, a block of rows at a time.
struct CodedRows {
  using Number = float;
  const CachedHead& h;
  const std::byte *codes, *scale;
  const int8_t* zero;
  float* values;
  int64_t stride;

  float scale_at(int64_t i) const {
    if (h.grid->scale_type == DType::f16)
      return to_float(reinterpret_cast<const Float16*>(scale)[i]);
    if (h.grid->scale_type == DType::bf16)
      return to_float(reinterpret_cast<const BFloat16*>(scale)[i]);
    return reinterpret_cast<const float*>(scale)[i];
  }

  void widen(const std::byte* row, int64_t begin, int64_t end, float by, float from,
             float* out) const {
    if (h.grid->bits == 4) {
      for (int64_t c = begin; c < end; ++c)
        out[c - begin] =
            (float(int(row[c / 2] >> (c % 2 * 4) & std::byte{15}) - 8) - from) * by;
      return;
    }
    const auto* whole = reinterpret_cast<const int8_t*>(row);
    for (int64_t c = begin; c < end; ++c) out[c - begin] = (float(whole[c]) - from) * by;
  }

  const float* block(int64_t start, int64_t count) const {
    const CachedGrid& grid = *h.grid;
    const int64_t first = grid.column, last = first + h.head_dim;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t row = start + j;
      for (int64_t begin = first; begin < last;) {
        const int64_t group = begin / grid.group, at = row * grid.scales + group;
        const int64_t next = (group + 1) * grid.group, end = next < last ? next : last;
        widen(codes + row * h.stride, begin, end, scale_at(at), zero ? float(zero[at]) : 0.0f,
              values + j * stride + (begin - first));
        begin = end;
      }
    }
    return values;
  }
};

template <class Rows>
void attend(const CachedHead& h, const Rows& keys, const Rows& values) {
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
    const typename Rows::Number* block = keys.block(start, count);
    for (int64_t j = 0; j < count; ++j) {
      weights[j] = dot(q, block + j * keys.stride, h.head_dim) * factor;
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
    block = values.block(start, count);
    for (int64_t j = 0; j < count; ++j)
      add_row(y, weights[j], block + j * values.stride, h.head_dim);
    top = now;
  }
  if (h.type == DType::bf16)
    narrow_row<BFloat16>(y, 1.0f / total, h.y, h.head_dim);
  else
    narrow_row<float>(y, 1.0f / total, h.y, h.head_dim);
}

}  // namespace

void QAT_ATTEND_CACHED(const CachedHead& head) {
  if (head.grid != nullptr) {
    float* block = head.temp + 2 * head.head_dim + kCachedKeys;
    const CachedGrid& grid = *head.grid;
    attend(head,
           CodedRows{head, head.k_cache, grid.k_scale, grid.k_zero, block, head.head_dim},
           CodedRows{head, head.v_cache, grid.v_scale, grid.v_zero, block, head.head_dim});
  } else if (head.cache_type == DType::bf16) {
    const auto rows = [&](const std::byte* cache) {
      return PlainRows<BFloat16>{reinterpret_cast<const BFloat16*>(cache), head.stride};
    };
    attend(head, rows(head.k_cache), rows(head.v_cache));
  } else {
    const auto rows = [&](const std::byte* cache) {
      return PlainRows<float>{reinterpret_cast<const float*>(cache), head.stride};
    };
    attend(head, rows(head.k_cache), rows(head.v_cache));
  }
}

}  // namespace qat::cpu
