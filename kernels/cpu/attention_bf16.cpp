// Attention for AVX512 BF16.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_engine.h"

#define QAT_LANES 16
#define QAT_BF16
#define QAT_ATTENTION_ENGINE attention_engine_bf16
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16")
#include "kernels/cpu/attention_blocks.h"
