// Attention over a cache for AVX512.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_cached_head.h"

#define QAT_LANES 16
#define QAT_ATTEND_CACHED attend_cached_avx512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "kernels/cpu/attention_cached_simd.h"
