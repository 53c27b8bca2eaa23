// Work that is independent row by row, over the threads of a Stream: the same bits for any number.
#pragma once

#include <cstdint>

#include "kernels/stream.h"

namespace qat {

/// body(row) for every row in [0, rows).
template <class Body>
void parallel_rows(const Stream& stream, int64_t rows, Body body) {
#pragma omp parallel for schedule(dynamic) num_threads(stream.threads())
  for (int64_t row = 0; row < rows; ++row) body(row);
}

}  // namespace qat
