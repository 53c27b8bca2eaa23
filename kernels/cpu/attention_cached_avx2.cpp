// Attention over a cache for AVX2 with FMA.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_cached_head.h"

#define QAT_LANES 8
#define QAT_ATTEND_CACHED attend_cached_avx2
#pragma GCC target("avx2,fma")
#include "kernels/cpu/attention_cached_simd.h"
