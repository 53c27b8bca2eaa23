// The packed product for AVX512 BF16.
#include <immintrin.h>

#include "kernels/cpu/gemm_native.h"

#define QAT_LANES 16
#define QAT_BF16
#define QAT_GEMM_ENGINE gemm_engine_bf16
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16")
#include "kernels/cpu/gemm_strip.h"
