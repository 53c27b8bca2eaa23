// The innermost piece of a product, c[32 x 32] (+)= a[32 x k] . b[k x 32], and the packing of its
// operands, for the instruction set of the including file (see simd.h; QAT_BF16 adds the AVX512
// BF16 instructions, QAT_AMX the tile registers).
//
// An element is f32 or bf16; kPair = 1 or 2 elements make 32 bits. a is row major; b is a panel
// [k/kPair][32][kPair]: what both vdpbf16ps and the AMX tiles read. k is a multiple of kStep.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/view.h"

namespace qat::cpu {
namespace {

constexpr int64_t kTile = 32;  ///< rows and columns of a tile

#if defined(QAT_BF16) || defined(QAT_AMX)
using Element = BFloat16;
constexpr int64_t kPair = 2;
constexpr int64_t kStep = 32;
#else
using Element = float;
constexpr int64_t kPair = 1;
constexpr int64_t kStep = 1;
#endif

enum class Start { zero, add };

#if defined(QAT_BF16) || defined(QAT_AMX)
/// Rounds by the bf16 instruction, a tenth of the work of store(); it takes subnormals for zero.
QAT_INLINE void put(BFloat16* p, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x.v));
}
#else
QAT_INLINE void put(BFloat16* p, Floats x) {
  store(p, x);
}
#endif
QAT_INLINE void put(float* p, Floats x) {
  store(p, x);
}

QAT_INLINE int64_t padded(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

#if defined(QAT_AMX)

struct alignas(64) TileShape {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Holds the tile registers of this thread in the one shape used here, 16 rows of 64 bytes.
class TileScope {
 public:
  TileScope() {
    static constexpr TileShape kShape;
    _tile_loadconfig(&kShape);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// GCC 12's tile intrinsics do not tell the compiler that they read and write memory.
QAT_INLINE void memory_barrier() {
  asm volatile("" ::: "memory");
}

/// next (may be null): where the next tile will be, its lines are fetched meanwhile.
QAT_INLINE void multiply_tile(const Element* a, int64_t lda, const Element* b, int64_t k, float* c,
                              int64_t ldc, Start start, const float* next = nullptr) {
  memory_barrier();
  float* c_low = c + 16 * ldc;
  const int64_t c_stride = ldc * 4, a_stride = lda * 2;
  if (start == Start::zero) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c, c_stride);
    _tile_loadd(1, c + 16, c_stride);
    _tile_loadd(2, c_low, c_stride);
    _tile_loadd(3, c_low + 16, c_stride);
  }
  int64_t row = next == nullptr ? kTile : 0;
  for (int64_t i = 0; i < k; i += 32) {
    for (const int64_t end = row + 2; row < end && row < kTile; ++row) {
      __builtin_prefetch(next + row * ldc, 1);
      __builtin_prefetch(next + row * ldc + 16, 1);
    }
    _tile_loadd(4, a + i, a_stride);
    _tile_loadd(6, b + i * kTile, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + i * kTile + 32, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + 16 * lda + i, a_stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_stride);
  _tile_stored(1, c + 16, c_stride);
  _tile_stored(2, c_low, c_stride);
  _tile_stored(3, c_low + 16, c_stride);
  memory_barrier();
}

#else

/// Nothing to hold without tile registers.
struct TileScope {
  TileScope() {}
};

QAT_INLINE Floats multiply_add(const Element* a, Floats b, Floats c) {
#if defined(QAT_BF16)
  int32_t pair;
  __builtin_memcpy(&pair, a, 4);
  return {
      _mm512_dpbf16_ps(c.v, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_castps_si512(b.v))};
#else
  return fused(all(*a), b, c);
#endif
}

constexpr int kRows = kLanes == 16 ? 8 : 4;  ///< sums held in registers: kRows x 2

QAT_INLINE void multiply_rows(const Element* a, int64_t lda, const Element* b, int64_t k, float* c,
                              int64_t ldc, Start start) {
  Floats sums[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] = start == Start::zero ? all(0.0f) : load(c + r * ldc);
    sums[r][1] = start == Start::zero ? all(0.0f) : load(c + r * ldc + kLanes);
  }
  for (int64_t i = 0; i < k; i += kPair, b += kTile * kPair) {
    const Floats b0 = load(reinterpret_cast<const float*>(b));
    const Floats b1 = load(reinterpret_cast<const float*>(b) + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      sums[r][0] = multiply_add(a + r * lda + i, b0, sums[r][0]);
      sums[r][1] = multiply_add(a + r * lda + i, b1, sums[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(c + r * ldc, sums[r][0]);
    store(c + r * ldc + kLanes, sums[r][1]);
  }
}

inline void multiply_tile(const Element* a, int64_t lda, const Element* b, int64_t k, float* c,
                          int64_t ldc, Start start, const float* = nullptr) {
  for (int64_t col = 0; col < kTile; col += 2 * kLanes)
    for (int64_t row = 0; row < kTile; row += kRows)
      multiply_rows(a + row * lda, lda, b + col * kPair, k, c + row * ldc + col, ldc, start);
}

#endif

/// Packing works in units of 32 bits: one f32, or two bf16.
using Word = uint32_t __attribute__((may_alias));

#if QAT_LANES == 16

/// dst[j][i] = src[i][j] for 16 x 16 words.
inline void transpose_block(const Word* src, int64_t src_stride, Word* dst, int64_t dst_stride) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(src + i * src_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    _mm512_storeu_si512(dst + i * dst_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    _mm512_storeu_si512(dst + (i + 8) * dst_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xDD));
  }
}
constexpr int64_t kTransposeBlock = 16;

#else

/// dst[j][i] = src[i][j] for 4 x 4 words.
inline void transpose_block(const Word* src, int64_t src_stride, Word* dst, int64_t dst_stride) {
  const auto row = [&](int i) {
    return _mm_loadu_ps(reinterpret_cast<const float*>(src + i * src_stride));
  };
  __m128 a = row(0), b = row(1), c = row(2), d = row(3);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  const auto put = [&](int i, __m128 x) {
    _mm_storeu_ps(reinterpret_cast<float*>(dst + i * dst_stride), x);
  };
  put(0, a);
  put(1, b);
  put(2, c);
  put(3, d);
}
constexpr int64_t kTransposeBlock = 4;

#endif

/// dst[j][i] = src[i][j]; rows is a multiple of 16.
inline void transpose(const Word* src, int64_t src_stride, int64_t rows, int64_t cols, Word* dst,
                      int64_t dst_stride) {
  const int64_t whole = cols / kTransposeBlock * kTransposeBlock;
  for (int64_t j = 0; j < whole; j += kTransposeBlock)
    for (int64_t i = 0; i < rows; i += kTransposeBlock)
      transpose_block(src + i * src_stride + j, src_stride, dst + j * dst_stride + i, dst_stride);
  for (int64_t j = whole; j < cols; ++j)
    for (int64_t i = 0; i < rows; ++i) dst[j * dst_stride + i] = src[i * src_stride + j];
}

/// Rows of elements ready to be packed: in place, or copied (widened, padded with zeros).
struct Rows {
  const Element* at;
  int64_t stride;
};

/// rows x cols elements of type `type` at data[offset], as padded_rows x padded_cols of Element.
/// temp holds that many; it is not touched when the data can be used where it is.
inline Rows gather(const void* data, DType type, int64_t offset, int64_t stride, int64_t rows,
                   int64_t cols, int64_t padded_rows, int64_t padded_cols, Element* temp) {
  const bool same = size_of(type) == sizeof(Element);
  if (same && rows == padded_rows && cols == padded_cols && stride % kPair == 0)
    return {static_cast<const Element*>(data) + offset, stride};
  for (int64_t i = 0; i < padded_rows; ++i) {
    Element* to = temp + i * padded_cols;
    int64_t j = 0;
    if (i < rows && same) {
      const Element* from = static_cast<const Element*>(data) + offset + i * stride;
      __builtin_memcpy(to, from, size_t(cols) * sizeof(Element));
      j = cols;
    } else if (i < rows && type == DType::i8) {
      const int8_t* from = static_cast<const int8_t*>(data) + offset + i * stride;
      for (; j < cols; ++j) to[j] = narrow<Element>(float(from[j]));
    } else if (i < rows) {
#if !defined(QAT_BF16) && !defined(QAT_AMX)
      const BFloat16* from = static_cast<const BFloat16*>(data) + offset + i * stride;
      for (; j + kLanes <= cols; j += kLanes) store(to + j, load(from + j));
      for (; j < cols; ++j) to[j] = to_float(from[j]);
#endif
    }
    __builtin_memset(static_cast<void*>(to + j), 0, size_t(padded_cols - j) * sizeof(Element));
  }
  return {temp, padded_cols};
}

/// panel[k/kPair][32][kPair] of k rows of 32 elements: rows side by side in pairs.
inline void pack_rows(Rows rows, int64_t k, Element* panel) {
#if defined(QAT_BF16) || defined(QAT_AMX)
  alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                    37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                    11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t i = 0; i < k; i += 2, panel += 2 * kTile) {
    const __m512i even = _mm512_loadu_si512(rows.at + i * rows.stride);
    const __m512i odd = _mm512_loadu_si512(rows.at + (i + 1) * rows.stride);
    _mm512_storeu_si512(panel, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_storeu_si512(panel + kTile, _mm512_permutex2var_epi16(even, high, odd));
  }
#else
  for (int64_t i = 0; i < k; ++i, panel += kTile)
    for (int64_t j = 0; j < kTile; j += kLanes)
      store(panel + j, load(rows.at + i * rows.stride + j));
#endif
}

/// panel[k/kPair][32][kPair] of 32 rows of k elements: the operand is transposed.
inline void pack_columns(Rows rows, int64_t k, Element* panel) {
  transpose(reinterpret_cast<const Word*>(rows.at), rows.stride / kPair, kTile, k / kPair,
            reinterpret_cast<Word*>(panel), kTile);
}

/// out[32][k] of k rows of 32 elements; temp holds 32 * k.
inline void pack_transposed(Rows rows, int64_t k, Element* temp, Element* out) {
  if (kPair == 2) {
    pack_rows(rows, k, temp);
    rows = {temp, kTile * kPair};
  }
  const int64_t words = k / kPair;
  const auto* src = reinterpret_cast<const Word*>(rows.at);
  auto* dst = reinterpret_cast<Word*>(out);
  const int64_t src_stride = rows.stride / kPair;
  const int64_t whole = words / kTransposeBlock * kTransposeBlock;
  for (int64_t j = 0; j < kTile; j += kTransposeBlock)
    for (int64_t i = 0; i < whole; i += kTransposeBlock)
      transpose_block(src + i * src_stride + j, src_stride, dst + j * words + i, words);
  for (int64_t j = 0; j < kTile; ++j)
    for (int64_t i = whole; i < words; ++i) dst[j * words + i] = src[i * src_stride + j];
}

}  // namespace
}  // namespace qat::cpu
