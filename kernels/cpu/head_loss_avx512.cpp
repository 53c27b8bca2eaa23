// The loss of one token for AVX512.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/head_loss_row.h"

#define QAT_LANES 16
#define QAT_LOSS_OF_ROW loss_of_row_avx512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "kernels/cpu/head_loss_simd.h"
