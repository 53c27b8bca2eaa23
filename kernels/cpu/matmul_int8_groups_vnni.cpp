// The inner loops of matmul_int8_groups.h. vpdpbusd multiplies unsigned by signed bytes and takes
// the signed ones from memory, four to all lanes: so weights are stored plus 128, and the sums of a
// group start at what that adds.

// gcc 12's AVX-512 intrinsics start from undefined registers, which it then warns about.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include "kernels/cpu/matmul_int8_groups.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")

namespace qat::cpu {
namespace {

struct Pair {
  __m512 low, high;
};

inline __attribute__((always_inline)) __m512i four_to_all(const int8_t* a) {
  int32_t word;
  __builtin_memcpy(&word, a, 4);
  return _mm512_set1_epi32(word);
}

inline __attribute__((always_inline)) __m256i to_bfloat16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result =
      _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7FC0));
  return _mm512_cvtepi32_epi16(result);
}

inline __attribute__((always_inline)) void put(const Int8Tile& t, int64_t row, Pair y) {
  const auto lanes = [&](int64_t first) {
    const int64_t left = t.outputs - first;
    return left >= 16 ? __mmask16(0xFFFF) : left <= 0 ? __mmask16(0) : __mmask16((1 << left) - 1);
  };
  if (t.y_type == DType::bf16) {
    auto* out = reinterpret_cast<uint16_t*>(t.y) + row * t.y_stride;
    _mm256_mask_storeu_epi16(out, lanes(0), to_bfloat16(y.low));
    _mm256_mask_storeu_epi16(out + 16, lanes(16), to_bfloat16(y.high));
  } else {
    auto* out = reinterpret_cast<float*>(t.y) + row * t.y_stride;
    _mm512_mask_storeu_ps(out, lanes(0), y.low);
    _mm512_mask_storeu_ps(out + 16, lanes(16), y.high);
  }
}

template <int kRows, bool kPerToken>
void multiply(const Int8Tile& t) {
  Pair y[kRows];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) y[r] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  const uint8_t* codes = t.panel.codes;
  for (int64_t g = 0; g < t.groups; ++g) {
    const int8_t* a = t.a + g * t.group;
    __m512i low[kRows], high[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_set1_epi32(t.start[r * t.groups + g]);
    for (int64_t k = 0; k < t.group; k += 4, codes += 4 * kInt8Panel) {
      const __m512i b0 = _mm512_loadu_si512(codes), b1 = _mm512_loadu_si512(codes + 64);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m512i four = four_to_all(a + r * t.inputs + k);
        low[r] = _mm512_dpbusd_epi32(low[r], b0, four);
        high[r] = _mm512_dpbusd_epi32(high[r], b1, four);
      }
    }
    const __m512 s0 = _mm512_loadu_ps(t.panel.scales + g * kInt8Panel);
    const __m512 s1 = _mm512_loadu_ps(t.panel.scales + g * kInt8Panel + 16);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      __m512 sum0 = _mm512_cvtepi32_ps(low[r]), sum1 = _mm512_cvtepi32_ps(high[r]);
      if constexpr (!kPerToken) {
        const __m512 scale = _mm512_set1_ps(t.scale_T[r * t.groups + g]);
        sum0 = _mm512_mul_ps(sum0, scale);
        sum1 = _mm512_mul_ps(sum1, scale);
      }
      y[r] = {_mm512_fmadd_ps(sum0, s0, y[r].low), _mm512_fmadd_ps(sum1, s1, y[r].high)};
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kPerToken) {
      const __m512 scale = _mm512_set1_ps(t.scale_T[r]);
      y[r] = {_mm512_mul_ps(y[r].low, scale), _mm512_mul_ps(y[r].high, scale)};
    }
    put(t, r, y[r]);
  }
}

template <bool kPerToken>
void multiply(const Int8Tile& t) {
  switch (t.rows) {
    case 1:
      return multiply<1, kPerToken>(t);
    case 2:
      return multiply<2, kPerToken>(t);
    case 3:
      return multiply<3, kPerToken>(t);
    case 4:
      return multiply<4, kPerToken>(t);
    case 5:
      return multiply<5, kPerToken>(t);
    default:
      return multiply<6, kPerToken>(t);
  }
}

}  // namespace

void multiply_int8_tile(const Int8Tile& tile) {
  if (tile.per_token)
    multiply<true>(tile);
  else
    multiply<false>(tile);
}

void int8_group_starts(const int8_t* a, int64_t groups, int64_t group, int32_t* start) {
  for (int64_t g = 0; g < groups; ++g, a += group) {
    int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < group; ++k) sum += a[k];
    start[g] = -128 * sum;
  }
}

void pack_int8_panel(const int8_t* b_OK, int64_t inputs, int64_t o0, int64_t count,
                     uint8_t* codes) {
  constexpr uint32_t kFlip = 0x80808080u;
  for (int64_t o = 0; o < kInt8Panel; ++o) {
    const int8_t* row = b_OK + (o0 + o) * inputs;
    for (int64_t k = 0; k < inputs; k += 4) {
      uint32_t word = 0;
      if (o < count) __builtin_memcpy(&word, row + k, 4);
      word ^= kFlip;
      __builtin_memcpy(codes + k * kInt8Panel + o * 4, &word, 4);
    }
  }
}

}  // namespace qat::cpu
