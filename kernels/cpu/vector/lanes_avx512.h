// lanes.h on AVX-512 (F, BW, DQ, VL): one register.
#pragma once

#include <immintrin.h>

namespace qat::cpu::avx512 {

struct Lanes {
  __m512 v;
};

struct Mask {
  __mmask16 bits;
};

QAT_LANES_INLINE Lanes all(float value) {
  return {_mm512_set1_ps(value)};
}
QAT_LANES_INLINE Lanes load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
QAT_LANES_INLINE Lanes load(const BFloat16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
QAT_LANES_INLINE Lanes load(const int8_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))};
}

QAT_LANES_INLINE void store(float* p, Lanes x) {
  _mm512_storeu_ps(p, x.v);
}
// Not vcvtneps2bf16, which flushes subnormals to zero.
QAT_LANES_INLINE void store(BFloat16* p, Lanes x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i biased = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i rounded =
      _mm512_mask_or_epi32(_mm512_srli_epi32(biased, 16), nan, upper, _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
QAT_LANES_INLINE void store(int8_t* p, Lanes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}

QAT_LANES_INLINE Lanes operator+(Lanes a, Lanes b) {
  return {_mm512_add_ps(a.v, b.v)};
}
QAT_LANES_INLINE Lanes operator-(Lanes a, Lanes b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
QAT_LANES_INLINE Lanes operator*(Lanes a, Lanes b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
QAT_LANES_INLINE Lanes operator/(Lanes a, Lanes b) {
  return {_mm512_div_ps(a.v, b.v)};
}
QAT_LANES_INLINE Lanes max(Lanes a, Lanes b) {
  return {_mm512_max_ps(a.v, b.v)};
}
QAT_LANES_INLINE Lanes min(Lanes a, Lanes b) {
  return {_mm512_min_ps(a.v, b.v)};
}
QAT_LANES_INLINE Lanes abs(Lanes a) {
  return {_mm512_and_ps(a.v, _mm512_castsi512_ps(_mm512_set1_epi32(0x7FFFFFFF)))};
}
QAT_LANES_INLINE Lanes sqrt(Lanes a) {
  return {_mm512_sqrt_ps(a.v)};
}
QAT_LANES_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
QAT_LANES_INLINE Lanes round_even(Lanes a) {
  // The addition turns -0 into 0, as the other instruction sets do.
  return {_mm512_add_ps(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                        _mm512_setzero_ps())};
}
QAT_LANES_INLINE Lanes power_of_two(Lanes n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
QAT_LANES_INLINE Lanes max_magnitude(Lanes a, Lanes b) {
  return {
      _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}

QAT_LANES_INLINE Mask at_least(Lanes a, Lanes b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)};
}
QAT_LANES_INLINE Mask less(Lanes a, Lanes b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
QAT_LANES_INLINE Mask both(Mask a, Mask b) {
  return {__mmask16(a.bits & b.bits)};
}
QAT_LANES_INLINE bool any(Mask a) {
  return a.bits != 0;
}
QAT_LANES_INLINE Lanes select(Mask mask, Lanes a, Lanes b) {
  return {_mm512_mask_blend_ps(mask.bits, b.v, a.v)};
}
QAT_LANES_INLINE Lanes keep_nan(Lanes x, Lanes value) {
  return {_mm512_mask_mov_ps(value.v, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), x.v)};
}

QAT_LANES_INLINE Lanes gather(const float* table, const uint8_t* index) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(index));
  return {_mm512_i32gather_ps(_mm512_cvtepu8_epi32(bytes), table, 4)};
}

QAT_LANES_INLINE void nearest(const uint32_t* entries, Lanes x, uint8_t* index) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __mmask16 negative = _mm512_movepi32_mask(bits);
  const __m512i upper = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x7FFF));
  const __m512i last = _mm512_set1_epi32(int(kNearestBuckets - 1));
  __m512i bucket = _mm512_sub_epi32(upper, _mm512_set1_epi32(int(kNearestFirst)));
  bucket = _mm512_min_epi32(_mm512_max_epi32(bucket, _mm512_setzero_si512()), last);
  bucket = _mm512_mask_add_epi32(bucket, negative, bucket, _mm512_set1_epi32(int(kNearestBuckets)));
  const __m512i entry = _mm512_i32gather_epi32(bucket, entries, 4);
  const __mmask16 beyond =
      _mm512_cmpge_epi32_mask(_mm512_and_si512(bits, _mm512_set1_epi32(0xFFFF)),
                              _mm512_and_si512(entry, _mm512_set1_epi32(0x1FFFF)));
  const __m512i one = _mm512_set1_epi32(1);
  __m512i result = _mm512_srli_epi32(entry, 17);
  result = _mm512_mask_add_epi32(result, __mmask16(beyond & ~negative), result, one);
  result = _mm512_mask_sub_epi32(result, __mmask16(beyond & negative), result, one);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(index), _mm512_cvtepi32_epi8(result));
}

QAT_LANES_INLINE float sum(Lanes a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
QAT_LANES_INLINE float largest(Lanes a) {
  return _mm512_reduce_max_ps(a.v);
}
QAT_LANES_INLINE float smallest(Lanes a) {
  return _mm512_reduce_min_ps(a.v);
}
QAT_LANES_INLINE float largest_magnitude(Lanes a) {
  return float_of(_mm512_reduce_max_epu32(_mm512_castps_si512(a.v)));
}

}  // namespace qat::cpu::avx512
