// Sixteen floats at a time. The files of this folder are compiled once per instruction set
// (QAT_LANES = scalar, avx2 or avx512) against the same operations, so results have the same bits
// everywhere: a sum always has sixteen partial sums, folded in the same order, and a fused
// multiply-add happens only where `fused` is written.
//
// Nothing here or in this folder may call an inline function of another header that is not
// always_inline: the linker could then use the AVX-512 copy on a processor without AVX-512.
#pragma once

#include <cstdint>

#include "kernels/dynamic_maps.h"
#include "kernels/float_types.h"

#define QAT_LANES_INLINE inline __attribute__((always_inline))
// Long functions with several callers: one copy each keeps the build short.
#define QAT_LANES_SHARED __attribute__((noinline))

namespace qat::cpu {
constexpr uint32_t kNearestFirst = NearestTable::kFirst;
constexpr uint32_t kNearestBuckets = NearestTable::kBuckets;
constexpr int kNanBFloat16 = 0x7FC0;
constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, half to even
}  // namespace qat::cpu

#if defined(QAT_LANES_AVX512)
#define QAT_LANES avx512
#include "kernels/cpu/vector/lanes_avx512.h"
#elif defined(QAT_LANES_AVX2)
#define QAT_LANES avx2
#include "kernels/cpu/vector/lanes_avx2.h"
#else
#define QAT_LANES scalar
#include "kernels/cpu/vector/lanes_scalar.h"
#endif

namespace qat::cpu::QAT_LANES {

/// Which lanes of a load or store exist: all sixteen, or the first `count`; missing ones load as 0.
struct Whole {};
struct Part {
  int count;
};

QAT_LANES_INLINE Lanes load(const float* p, Whole) {
  return load(p);
}
QAT_LANES_INLINE Lanes load(const BFloat16* p, Whole) {
  return load(p);
}
QAT_LANES_INLINE Lanes load(const int8_t* p, Whole) {
  return load(p);
}
QAT_LANES_INLINE void store(float* p, Lanes v, Whole) {
  store(p, v);
}
QAT_LANES_INLINE void store(BFloat16* p, Lanes v, Whole) {
  store(p, v);
}

QAT_LANES_INLINE void store_number(float* p, Lanes v, Whole) {
  store_number(p, v);
}
QAT_LANES_INLINE void store_number(BFloat16* p, Lanes v, Whole) {
  store_number(p, v);
}
QAT_LANES_INLINE void store_shifted(int8_t* p, Lanes v, Whole) {
  store_shifted(p, v);
}

template <class T>
QAT_LANES_INLINE Lanes load(const T* p, Part part) {
  T buffer[16] = {};
  for (int i = 0; i < part.count; ++i) buffer[i] = p[i];
  return load(buffer);
}

template <class T>
QAT_LANES_INLINE void store(T* p, Lanes v, Part part) {
  T buffer[16];
  store(buffer, v);
  for (int i = 0; i < part.count; ++i) p[i] = buffer[i];
}
template <class T>
QAT_LANES_INLINE void store_number(T* p, Lanes v, Part part) {
  store(p, v, part);
}
QAT_LANES_INLINE void store_shifted(int8_t* p, Lanes v, Part part) {
  int8_t buffer[16];
  store_shifted(buffer, v);
  for (int i = 0; i < part.count; ++i) p[i] = buffer[i];
}

/// body(offset, Whole or Part) over `count` elements, sixteen at a time.
template <class Body>
QAT_LANES_INLINE void over_lanes(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) body(i, Whole{});
  if (i < count) body(i, Part{int(count - i)});
}

/// As over_lanes with the index of one of four accumulators: body(offset, part, index). Chains of
/// dependent additions would otherwise bound the speed of sums.
template <class Body>
QAT_LANES_INLINE void over_lanes_in_fours(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    body(i, Whole{}, 0);
    body(i + 16, Whole{}, 1);
    body(i + 32, Whole{}, 2);
    body(i + 48, Whole{}, 3);
  }
  for (; i + 16 <= count; i += 16) body(i, Whole{}, 0);
  if (i < count) body(i, Part{int(count - i)}, 0);
}

QAT_LANES_INLINE float sum(const Lanes (&four)[4]) {
  return sum((four[0] + four[1]) + (four[2] + four[3]));
}

/// e^x to about 1e-7 relative in [-87, 88]; clamped to that range outside; NaN gives e^-87.
/// Cody-Waite reduction to |r| <= ln2/2 and a Taylor polynomial.
QAT_LANES_INLINE Lanes exp(Lanes x) {
  const Lanes bounded = min(max(x, all(-87.0f)), all(88.0f));
  const Lanes shifted = bounded * all(1.44269504f) + all(kShift);
  const Lanes n = shifted - all(kShift);
  const Lanes r = (bounded - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
  Lanes p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  p = p * (r * r) + r + all(1.0f);
  return scale_by_power(p, shifted);
}

/// 1 / (1 + e^-x); NaN stays NaN.
QAT_LANES_INLINE Lanes sigmoid(Lanes x) {
  return keep_nan(x, all(1.0f) / (all(1.0f) + exp(all(0.0f) - x)));
}

}  // namespace qat::cpu::QAT_LANES
