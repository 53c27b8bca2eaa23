// The packed product for any x86-64.
#include <immintrin.h>

#include "kernels/cpu/gemm_native.h"

#define QAT_LANES 4
#define QAT_GEMM_ENGINE gemm_engine_sse2
#include "kernels/cpu/gemm_strip.h"
