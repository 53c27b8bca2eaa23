// The loss of one token for AVX2 with FMA.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/head_loss_row.h"

#define QAT_LANES 8
#define QAT_LOSS_OF_ROW loss_of_row_avx2
#pragma GCC target("avx2,fma")
#include "kernels/cpu/head_loss_simd.h"
