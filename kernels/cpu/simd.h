// A register of floats and the few operations the kernels here need, for the instruction set the
// including file is compiled for. Such a file includes its system headers first, then says
//   #define QAT_LANES 4 | 8 | 16
//   #pragma GCC target(...)
// and then includes this. All of it has internal linkage: a function compiled for one instruction
// set is never picked by the linker for another.
#pragma once

#ifndef QAT_LANES
#error "define QAT_LANES and set the target before including simd.h"
#endif

#include <immintrin.h>

#include "kernels/float_types.h"

#if QAT_LANES == 16
// GCC 12's own AVX512 headers start from undefined registers and warn about it (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define QAT_INLINE inline __attribute__((always_inline))

namespace qat::cpu {
namespace {

constexpr int kLanes = QAT_LANES;

#if QAT_LANES == 16

struct Floats {
  __m512 v;
};

QAT_INLINE Floats load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
QAT_INLINE Floats load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
QAT_INLINE void store(float* p, Floats x) {
  _mm512_storeu_ps(p, x.v);
}
/// The 16 bits of each lane rounded to bf16, in 32-bit lanes.
QAT_INLINE __m512i rounded(Floats x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_srli_epi32(kept, 16);
}
QAT_INLINE void store(BFloat16* p, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded(x)));
}
/// p[2i] = even_i, p[2i + 1] = odd_i, rounded.
QAT_INLINE void store_pairs(BFloat16* p, Floats even, Floats odd) {
  const __m512i pairs = _mm512_or_si512(rounded(even), _mm512_slli_epi32(rounded(odd), 16));
  _mm512_storeu_si512(p, pairs);
}
QAT_INLINE Floats all(float x) {
  return {_mm512_set1_ps(x)};
}
QAT_INLINE Floats add(Floats a, Floats b) {
  return {_mm512_add_ps(a.v, b.v)};
}
QAT_INLINE Floats subtract(Floats a, Floats b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
QAT_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
/// a * b + c, rounded once.
QAT_INLINE Floats fused(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
/// The second where either is NaN.
QAT_INLINE Floats larger(Floats a, Floats b) {
  return {_mm512_max_ps(a.v, b.v)};
}
QAT_INLINE float sum(Floats x) {
  return _mm512_reduce_add_ps(x.v);
}
QAT_INLINE float largest(Floats x) {
  return _mm512_reduce_max_ps(x.v);
}
QAT_INLINE Floats nearest(Floats x) {
  return {_mm512_roundscale_ps(x.v, 0)};
}
/// x * 2^n for whole n <= 127; 0 below 2^-126; NaN stays.
QAT_INLINE Floats scale_by_power(Floats x, Floats n) {
  const __mmask16 normal = _mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return {_mm512_maskz_scalef_ps(normal, x.v, n.v)};
}
/// x in the lanes whose index lies in [first, last), else `other`.
QAT_INLINE Floats keep_lanes(Floats x, int64_t first, int64_t last, Floats other) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const int f = int(first < 0 ? 0 : first > 16 ? 16 : first);
  const int l = int(last < 0 ? 0 : last > 16 ? 16 : last);
  const __mmask16 in = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(f)) &
                       _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(l));
  return {_mm512_mask_blend_ps(in, other.v, x.v)};
}

#elif QAT_LANES == 8

struct Floats {
  __m256 v;
};

QAT_INLINE Floats load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
QAT_INLINE Floats load(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
QAT_INLINE void store(float* p, Floats x) {
  _mm256_storeu_ps(p, x.v);
}
QAT_INLINE __m256i rounded(Floats x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256 nan = _mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, _mm256_castps_si256(nan)), 16);
}
QAT_INLINE void store(BFloat16* p, Floats x) {
  const __m256i bits = rounded(x);
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
QAT_INLINE Floats all(float x) {
  return {_mm256_set1_ps(x)};
}
QAT_INLINE Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.v, b.v)};
}
QAT_INLINE Floats subtract(Floats a, Floats b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
QAT_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
QAT_INLINE Floats fused(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
QAT_INLINE Floats larger(Floats a, Floats b) {
  return {_mm256_max_ps(a.v, b.v)};
}
QAT_INLINE float sum(Floats x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
QAT_INLINE float largest(Floats x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
QAT_INLINE Floats nearest(Floats x) {
  return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
QAT_INLINE Floats scale_by_power(Floats x, Floats n) {
  const __m256 normal = _mm256_cmp_ps(n.v, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);
  const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
  const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(x.v), power);
  return {_mm256_and_ps(_mm256_castsi256_ps(scaled), normal)};
}
QAT_INLINE Floats keep_lanes(Floats x, int64_t first, int64_t last, Floats other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int f = int(first < 0 ? 0 : first > 8 ? 8 : first);
  const int l = int(last < 0 ? 0 : last > 8 ? 8 : last);
  const __m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(f), lane),
                                         _mm256_cmpgt_epi32(_mm256_set1_epi32(l), lane));
  return {_mm256_blendv_ps(other.v, x.v, _mm256_castsi256_ps(in))};
}

#else  // four lanes of SSE2, which every x86-64 has

struct Floats {
  __m128 v;
};

QAT_INLINE Floats load(const float* p) {
  return {_mm_loadu_ps(p)};
}
QAT_INLINE Floats load(const BFloat16* p) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits))};
}
QAT_INLINE void store(float* p, Floats x) {
  _mm_storeu_ps(p, x.v);
}
QAT_INLINE void store(BFloat16* p, Floats x) {
  float lanes[4];
  _mm_storeu_ps(lanes, x.v);
  for (int i = 0; i < 4; ++i) p[i] = to_bfloat16(lanes[i]);
}
QAT_INLINE Floats all(float x) {
  return {_mm_set1_ps(x)};
}
QAT_INLINE Floats add(Floats a, Floats b) {
  return {_mm_add_ps(a.v, b.v)};
}
QAT_INLINE Floats subtract(Floats a, Floats b) {
  return {_mm_sub_ps(a.v, b.v)};
}
QAT_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm_mul_ps(a.v, b.v)};
}
/// Rounded twice here: this level has no fused instruction.
QAT_INLINE Floats fused(Floats a, Floats b, Floats c) {
  return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)};
}
QAT_INLINE Floats larger(Floats a, Floats b) {
  return {_mm_max_ps(a.v, b.v)};
}
QAT_INLINE float sum(Floats x) {
  const __m128 half = _mm_add_ps(x.v, _mm_movehl_ps(x.v, x.v));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
QAT_INLINE float largest(Floats x) {
  const __m128 half = _mm_max_ps(x.v, _mm_movehl_ps(x.v, x.v));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
QAT_INLINE Floats nearest(Floats x) {
  return {_mm_cvtepi32_ps(_mm_cvtps_epi32(x.v))};
}
QAT_INLINE Floats scale_by_power(Floats x, Floats n) {
  const __m128 normal =
      _mm_or_ps(_mm_cmpge_ps(n.v, _mm_set1_ps(-126.0f)), _mm_cmpunord_ps(x.v, x.v));
  const __m128i power = _mm_slli_epi32(_mm_cvtps_epi32(n.v), 23);
  const __m128i scaled = _mm_add_epi32(_mm_castps_si128(x.v), power);
  return {_mm_and_ps(_mm_castsi128_ps(scaled), normal)};
}
QAT_INLINE Floats keep_lanes(Floats x, int64_t first, int64_t last, Floats other) {
  const __m128i lane = _mm_setr_epi32(0, 1, 2, 3);
  const int f = int(first < 0 ? 0 : first > 4 ? 4 : first);
  const int l = int(last < 0 ? 0 : last > 4 ? 4 : last);
  const __m128 in = _mm_castsi128_ps(_mm_andnot_si128(_mm_cmpgt_epi32(_mm_set1_epi32(f), lane),
                                                      _mm_cmpgt_epi32(_mm_set1_epi32(l), lane)));
  return {_mm_or_ps(_mm_and_ps(in, x.v), _mm_andnot_ps(in, other.v))};
}

#endif

/// 2^x within 1e-7 relative for x in [-126, 127]; 0 below (-infinity included); NaN stays.
QAT_INLINE Floats exp2_of(Floats x) {
  const Floats clamped = larger(all(-1000.0f), x);
  const Floats n = nearest(clamped), f = subtract(clamped, n);
  // The polynomial of degree 6 of least relative error on [-1/2, 1/2].
  Floats p = all(0.0001534581242594868f);
  p = fused(p, f, all(0.0013399930903688073f));
  p = fused(p, f, all(0.009618489071726799f));
  p = fused(p, f, all(0.05550328642129898f));
  p = fused(p, f, all(0.24022646248340607f));
  p = fused(p, f, all(0.6931471824645996f));
  p = fused(p, f, all(1.0f));
  return scale_by_power(p, n);
}

/// As exp2_of within 3e-6: enough where the result is rounded to bf16.
QAT_INLINE Floats exp2_short(Floats x) {
  const Floats clamped = larger(all(-1000.0f), x);
  const Floats n = nearest(clamped), f = subtract(clamped, n);
  Floats p = all(0.009570102207362652f);
  p = fused(p, f, all(0.05591785907745361f));
  p = fused(p, f, all(0.240247443318367f));
  p = fused(p, f, all(0.6931217908859253f));
  p = fused(p, f, all(0.9999992847442627f));
  return scale_by_power(p, n);
}

}  // namespace
}  // namespace qat::cpu
