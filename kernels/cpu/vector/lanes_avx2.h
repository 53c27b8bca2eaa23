// lanes.h on AVX2 with FMA: two registers.
#pragma once

#include <immintrin.h>

namespace qat::cpu::avx2 {

struct Lanes {
  __m256 low, high;
};

using Mask = Lanes;

QAT_LANES_INLINE Lanes all(float value) {
  return {_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
QAT_LANES_INLINE Lanes load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
QAT_LANES_INLINE __m256 widen(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
QAT_LANES_INLINE Lanes load(const BFloat16* p) {
  return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
QAT_LANES_INLINE __m256 code_values(const int8_t* p) {
  const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
}
QAT_LANES_INLINE Lanes load(const int8_t* p) {
  return {code_values(p), code_values(p + 8)};
}

QAT_LANES_INLINE void store(float* p, Lanes x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
QAT_LANES_INLINE __m256i number_bits(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i biased = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  return _mm256_srli_epi32(biased, 16);
}
QAT_LANES_INLINE __m256i bfloat16_bits(__m256 x) {
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(number_bits(x), _mm256_set1_epi32(kNanBFloat16), nan);
}
QAT_LANES_INLINE void store_words(BFloat16* p, __m256i low, __m256i high) {
  const __m256i packed = _mm256_packus_epi32(low, high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
}
QAT_LANES_INLINE void store(BFloat16* p, Lanes x) {
  store_words(p, bfloat16_bits(x.low), bfloat16_bits(x.high));
}
QAT_LANES_INLINE void store_number(float* p, Lanes x) {
  store(p, x);
}
QAT_LANES_INLINE void store_number(BFloat16* p, Lanes x) {
  store_words(p, number_bits(x.low), number_bits(x.high));
}
QAT_LANES_INLINE __m256i unshifted(__m256 x) {
  return _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(0x4B400000));
}
QAT_LANES_INLINE void store_shifted(int8_t* p, Lanes x) {
  const __m256i words = _mm256_packs_epi32(unshifted(x.low), unshifted(x.high));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

QAT_LANES_INLINE __m256i sizes_of(const BFloat16* p) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                          _mm256_set1_epi16(0x7FFF));
}
QAT_LANES_INLINE float amax_of_sixteens(const BFloat16* x, int64_t count) {
  __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    even = _mm256_max_epu16(even, sizes_of(x + i));
    odd = _mm256_max_epu16(odd, sizes_of(x + i + 16));
  }
  if (i < count) even = _mm256_max_epu16(even, sizes_of(x + i));
  even = _mm256_max_epu16(even, odd);
  const __m128i eight =
      _mm_max_epu16(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
  // minpos finds the smallest: of the complements, the largest.
  const __m128i flipped = _mm_xor_si128(eight, _mm_set1_epi16(-1));
  const uint16_t least = uint16_t(_mm_extract_epi16(_mm_minpos_epu16(flipped), 0));
  return to_float(BFloat16{uint16_t(~least)});
}
template <class T>
QAT_LANES_INLINE void transpose(const T* x, int64_t stride, float* columns) {
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < 16; ++i) columns[i * 16 + row] = to_float(x[row * stride + i]);
}

QAT_LANES_INLINE Lanes operator+(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
QAT_LANES_INLINE Lanes operator-(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
QAT_LANES_INLINE Lanes operator*(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
QAT_LANES_INLINE Lanes operator/(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
QAT_LANES_INLINE Lanes max(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
QAT_LANES_INLINE Lanes min(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
QAT_LANES_INLINE Lanes abs(Lanes a) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(a.low, mask), _mm256_and_ps(a.high, mask)};
}
QAT_LANES_INLINE Lanes with_sign(Lanes size, Lanes from) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(size.low, _mm256_and_ps(from.low, sign)),
          _mm256_or_ps(size.high, _mm256_and_ps(from.high, sign))};
}
QAT_LANES_INLINE Lanes sqrt(Lanes a) {
  return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)};
}
QAT_LANES_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
QAT_LANES_INLINE __m256 scale_by_power(__m256 p, __m256 shifted) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}
QAT_LANES_INLINE Lanes scale_by_power(Lanes p, Lanes shifted) {
  return {scale_by_power(p.low, shifted.low), scale_by_power(p.high, shifted.high)};
}
QAT_LANES_INLINE __m256 round_mantissa(__m256 a, int dropped) {
  const __m128i shift = _mm_cvtsi32_si128(dropped);
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srl_epi32(bits, shift), _mm256_set1_epi32(1));
  const __m256i half = _mm256_set1_epi32((1 << (dropped - 1)) - 1);
  const __m256i biased = _mm256_add_epi32(_mm256_add_epi32(bits, half), odd);
  return _mm256_castsi256_ps(_mm256_sll_epi32(_mm256_srl_epi32(biased, shift), shift));
}
QAT_LANES_INLINE Lanes round_mantissa(Lanes a, int dropped) {
  return {round_mantissa(a.low, dropped), round_mantissa(a.high, dropped)};
}
QAT_LANES_INLINE __m256 max_magnitude(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
QAT_LANES_INLINE Lanes max_magnitude(Lanes a, Lanes b) {
  return {max_magnitude(a.low, b.low), max_magnitude(a.high, b.high)};
}

QAT_LANES_INLINE Mask at_least(Lanes a, Lanes b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ)};
}
QAT_LANES_INLINE Mask less(Lanes a, Lanes b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
QAT_LANES_INLINE Mask both(Mask a, Mask b) {
  return {_mm256_and_ps(a.low, b.low), _mm256_and_ps(a.high, b.high)};
}
QAT_LANES_INLINE bool any(Mask a) {
  return _mm256_movemask_ps(_mm256_or_ps(a.low, a.high)) != 0;
}
QAT_LANES_INLINE Lanes select(Mask mask, Lanes a, Lanes b) {
  return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
}
QAT_LANES_INLINE Lanes keep_nan(Lanes x, Lanes value) {
  return {_mm256_blendv_ps(value.low, x.low, _mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q)),
          _mm256_blendv_ps(value.high, x.high, _mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q))};
}

QAT_LANES_INLINE __m256 gather_eight(const float* table, const uint8_t* index) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(index));
  return _mm256_i32gather_ps(table, _mm256_cvtepu8_epi32(bytes), 4);
}
QAT_LANES_INLINE Lanes gather(const float* table, const uint8_t* index) {
  return {gather_eight(table, index), gather_eight(table, index + 8)};
}

QAT_LANES_INLINE __m256i nearest_eight(const uint32_t* entries, __m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i negative = _mm256_srai_epi32(bits, 31);  // -1 where negative
  const __m256i upper = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x7FFF));
  const __m256i buckets = _mm256_set1_epi32(int(kNearestBuckets));
  __m256i bucket = _mm256_sub_epi32(upper, _mm256_set1_epi32(int(kNearestFirst)));
  bucket = _mm256_max_epi32(bucket, _mm256_setzero_si256());
  bucket = _mm256_min_epi32(bucket, _mm256_set1_epi32(int(kNearestBuckets - 1)));
  bucket = _mm256_add_epi32(bucket, _mm256_and_si256(negative, buckets));
  const __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(entries), bucket, 4);
  const __m256i low = _mm256_and_si256(bits, _mm256_set1_epi32(0xFFFF));
  const __m256i cut = _mm256_and_si256(entry, _mm256_set1_epi32(0x1FFFF));
  const __m256i one = _mm256_set1_epi32(1);
  const __m256i away = _mm256_or_si256(negative, one);  // +1, or -1 where negative
  const __m256i within = _mm256_cmpgt_epi32(cut, low);
  return _mm256_add_epi32(_mm256_srli_epi32(entry, 17), _mm256_andnot_si256(within, away));
}
QAT_LANES_INLINE void nearest(const uint32_t* entries, Lanes x, uint8_t* index) {
  const __m256i words =
      _mm256_packus_epi32(nearest_eight(entries, x.low), nearest_eight(entries, x.high));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(index),
      _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

QAT_LANES_INLINE float sum(Lanes a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
QAT_LANES_INLINE float largest(Lanes a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
QAT_LANES_INLINE float smallest(Lanes a) {
  const __m256 eight = _mm256_min_ps(a.low, a.high);
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}
QAT_LANES_INLINE float largest_magnitude(Lanes a) {
  const __m256i eight = _mm256_castps_si256(max_magnitude(a.low, a.high));
  const __m128i four =
      _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4E));
  return float_of(uint32_t(_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xB1)))));
}

}  // namespace qat::cpu::avx2
