// The same loop compiled for three instruction sets. Integers until the last step: the same bits on
// all.
#include "kernels/cpu/matmul_int8_rows.h"

#include <cmath>

#include "kernels/cpu/isa.h"
#include "kernels/float_types.h"

namespace qat::cpu {
namespace {

template <class T>
inline __attribute__((always_inline)) void scale_row(const int32_t* __restrict sums, int64_t count,
                                                     float scale, float zero,
                                                     const int32_t* __restrict column_sums,
                                                     const float* __restrict scales,
                                                     std::byte* y_bytes) {
  T* __restrict y = reinterpret_cast<T*>(y_bytes);
  if (column_sums == nullptr) {
#pragma omp simd
    for (int64_t o = 0; o < count; ++o) y[o] = narrow<T>(float(sums[o]) * (scale * scales[o]));
    return;
  }
  const int32_t shift = int32_t(std::lrintf(zero));  // zero points are whole numbers
#pragma omp simd
  for (int64_t o = 0; o < count; ++o)
    y[o] = narrow<T>(float(sums[o] - shift * column_sums[o]) * (scale * scales[o]));
}

template <class T>
void scalar(const int32_t* sums, int64_t count, float scale, float zero, const int32_t* column_sums,
            const float* scales, std::byte* y) {
  scale_row<T>(sums, count, scale, zero, column_sums, scales, y);
}

template <class T>
__attribute__((target("avx2"))) void avx2(const int32_t* sums, int64_t count, float scale,
                                          float zero, const int32_t* column_sums,
                                          const float* scales, std::byte* y) {
  scale_row<T>(sums, count, scale, zero, column_sums, scales, y);
}

template <class T>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) void avx512(
    const int32_t* sums, int64_t count, float scale, float zero, const int32_t* column_sums,
    const float* scales, std::byte* y) {
  scale_row<T>(sums, count, scale, zero, column_sums, scales, y);
}

template <class T>
ScaleRow by_isa() {
  if (isa() >= Isa::avx512) return avx512<T>;
  if (isa() == Isa::avx2) return avx2<T>;
  return scalar<T>;
}

}  // namespace

ScaleRow scale_row_for(DType type) {
  return type == DType::bf16 ? by_isa<BFloat16>() : by_isa<float>();
}

}  // namespace qat::cpu
