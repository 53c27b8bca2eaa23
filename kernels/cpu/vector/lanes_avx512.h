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
QAT_LANES_INLINE __m512i biased_for_bfloat16(Lanes x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i biased = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
  return _mm512_mask_add_epi32(biased, odd, biased, _mm512_set1_epi32(1));
}
QAT_LANES_INLINE void store(BFloat16* p, Lanes x) {
  const __mmask16 number = _mm512_cmp_ps_mask(x.v, x.v, _CMP_ORD_Q);
  const __m512i rounded =
      _mm512_mask_srli_epi32(_mm512_set1_epi32(kNanBFloat16), number, biased_for_bfloat16(x), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
QAT_LANES_INLINE void store_number(float* p, Lanes x) {
  store(p, x);
}
QAT_LANES_INLINE void store_number(BFloat16* p, Lanes x) {
  const __m512i rounded = _mm512_srli_epi32(biased_for_bfloat16(x), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
QAT_LANES_INLINE void store_shifted(int8_t* p, Lanes x) {
  const __m128i codes = _mm512_cvtepi32_epi8(_mm512_castps_si512(x.v));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
}

QAT_LANES_INLINE __m512i sizes_of(const BFloat16* p) {
  return _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi16(0x7FFF));
}
QAT_LANES_INLINE float amax_of_sixteens(const BFloat16* x, int64_t count) {
  __m512i largest[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                        _mm512_setzero_si512()};
  int64_t i = 0;
  for (; i + 128 <= count; i += 128)
    for (int k = 0; k < 4; ++k) largest[k] = _mm512_max_epu16(largest[k], sizes_of(x + i + 32 * k));
  for (; i + 32 <= count; i += 32) largest[0] = _mm512_max_epu16(largest[0], sizes_of(x + i));
  __m512i all = _mm512_max_epu16(_mm512_max_epu16(largest[0], largest[1]),
                                 _mm512_max_epu16(largest[2], largest[3]));
  __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  if (i < count) {
    const __m256i rest = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    half = _mm256_max_epu16(half, _mm256_and_si256(rest, _mm256_set1_epi16(0x7FFF)));
  }
  const __m128i eight =
      _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  // minpos finds the smallest: of the complements, the largest.
  const __m128i flipped = _mm_xor_si128(eight, _mm_set1_epi16(-1));
  const uint16_t least = uint16_t(_mm_extract_epi16(_mm_minpos_epu16(flipped), 0));
  return to_float(BFloat16{uint16_t(~least)});
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
QAT_LANES_INLINE Lanes with_sign(Lanes size, Lanes from) {
  return {_mm512_or_ps(size.v, _mm512_and_ps(from.v, _mm512_set1_ps(-0.0f)))};
}
QAT_LANES_INLINE Lanes sqrt(Lanes a) {
  return {_mm512_sqrt_ps(a.v)};
}
QAT_LANES_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
QAT_LANES_INLINE Lanes scale_by_power(Lanes p, Lanes shifted) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), exponent))};
}
QAT_LANES_INLINE Lanes round_mantissa(Lanes a, int dropped) {
  const __m128i shift = _mm_cvtsi32_si128(dropped);
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srl_epi32(bits, shift), _mm512_set1_epi32(1));
  const __m512i half = _mm512_set1_epi32((1 << (dropped - 1)) - 1);
  const __m512i biased = _mm512_add_epi32(_mm512_add_epi32(bits, half), odd);
  return {_mm512_castsi512_ps(_mm512_sll_epi32(_mm512_srl_epi32(biased, shift), shift))};
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

/// Turns sixteen rows into sixteen columns.
QAT_LANES_INLINE void store_transposed(const __m512 (&rows)[16], float* columns) {
  __m512 pairs[16], fours[16], eights[16];
  for (int i = 0; i < 8; ++i) {
    pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 2; ++k) {
      const __m512d a = _mm512_castps_pd(pairs[4 * i + k]);
      const __m512d b = _mm512_castps_pd(pairs[4 * i + 2 + k]);
      fours[4 * i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      fours[4 * i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  // fours[4 * i + c] holds, in its 128-bit quarter q, column 4 * q + c of rows 4 * i .. 4 * i + 3.
  for (int c = 0; c < 4; ++c) {
    eights[c] = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
    eights[4 + c] = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xDD);
    eights[8 + c] = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
    eights[12 + c] = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xDD);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = eights[c], even_high = eights[8 + c];
    const __m512 odd_low = eights[4 + c], odd_high = eights[12 + c];
    _mm512_storeu_ps(columns + c * 16, _mm512_shuffle_f32x4(even_low, even_high, 0x88));
    _mm512_storeu_ps(columns + (8 + c) * 16, _mm512_shuffle_f32x4(even_low, even_high, 0xDD));
    _mm512_storeu_ps(columns + (4 + c) * 16, _mm512_shuffle_f32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_ps(columns + (12 + c) * 16, _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD));
  }
}
template <class T>
QAT_LANES_INLINE void transpose(const T* x, int64_t stride, float* columns) {
  __m512 rows[16];
  for (int row = 0; row < 16; ++row) rows[row] = load(x + row * stride).v;
  store_transposed(rows, columns);
}

}  // namespace qat::cpu::avx512
