// Attention for any x86-64.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/attention_engine.h"

#define QAT_LANES 4
#define QAT_ATTENTION_ENGINE attention_engine_sse2
#include "kernels/cpu/attention_blocks.h"
