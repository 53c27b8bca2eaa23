// Attention for AVX512.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_engine.h"

#define QAT_LANES 16
#define QAT_ATTENTION_ENGINE attention_engine_avx512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "kernels/cpu/attention_blocks.h"
