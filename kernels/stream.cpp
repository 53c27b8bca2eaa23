#include "kernels/stream.h"

#include <omp.h>

#include <algorithm>

namespace qat {

Stream::Stream(int threads)
    : threads_(std::max(
          1, threads > 0 ? threads : std::min(omp_get_max_threads(), omp_get_num_procs()))) {}

}  // namespace qat
