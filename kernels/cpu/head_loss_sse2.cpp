// The loss of one token for any x86-64.
#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/head_loss_row.h"

#define QAT_LANES 4
#define QAT_LOSS_OF_ROW loss_of_row_sse2
#include "kernels/cpu/head_loss_simd.h"
