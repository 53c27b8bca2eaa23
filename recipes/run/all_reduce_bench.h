// The speed of sums over ranks, for qat-bench.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/dist/communicator.h"

namespace qat {

/// Prints one JSON line for each of `sizes` (MiB of floats) on the first rank: GB/s of all_reduce,
/// the best of five, beside those of memcpy in each rank at once.
void bench_all_reduce(Communicator& ranks, const std::vector<int64_t>& sizes);

}  // namespace qat
