// The packed product for AMX.
#include <immintrin.h>

#include "kernels/cpu/gemm_native.h"

#define QAT_LANES 16
#define QAT_AMX
#define QAT_GEMM_ENGINE gemm_engine_amx
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16,amx-tile,amx-bf16")
#include "kernels/cpu/gemm_strip.h"
