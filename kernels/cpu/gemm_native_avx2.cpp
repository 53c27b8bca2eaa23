// The packed product for AVX2 with FMA.
#include <immintrin.h>

#include "kernels/cpu/gemm_native.h"

#define QAT_LANES 8
#define QAT_GEMM_ENGINE gemm_engine_avx2
#pragma GCC target("avx2,fma")
#include "kernels/cpu/gemm_strip.h"
