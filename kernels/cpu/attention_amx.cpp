// Attention for AMX.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_engine.h"

#define QAT_LANES 16
#define QAT_AMX
#define QAT_ATTENTION_ENGINE attention_engine_amx
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16,amx-tile,amx-bf16")
#include "kernels/cpu/attention_blocks.h"
