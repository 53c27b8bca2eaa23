// The packed product for AVX512.
#include <immintrin.h>

#include "kernels/cpu/gemm_native.h"

#define QAT_LANES 16
#define QAT_GEMM_ENGINE gemm_engine_avx512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "kernels/cpu/gemm_strip.h"
