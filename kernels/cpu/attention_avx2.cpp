// Attention for AVX2 with FMA.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_engine.h"

#define QAT_LANES 8
#define QAT_ATTENTION_ENGINE attention_engine_avx2
#pragma GCC target("avx2,fma")
#include "kernels/cpu/attention_blocks.h"
