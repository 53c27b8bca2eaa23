// Attention over a cache for any x86-64.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_cached_head.h"

#define QAT_LANES 4
#define QAT_ATTEND_CACHED attend_cached_sse2
#include "kernels/cpu/attention_cached_simd.h"
