// Splitting work over the threads of a Stream. What a range computes must not depend on where
// ranges begin, or its partial results must be kept by fixed chunks and folded in order.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "kernels/stream.h"

namespace qat::cpu {

/// Below this many elements a second thread costs more than it brings.
constexpr int64_t kElementsWorthAThread = 16384;

/// body(begin, end) over [0, count), in at most stream.threads() ranges whose bounds are multiples
/// of `grain`; `work` elements are touched per unit of count.
template <class Body>
void over_ranges(const Stream& stream, int64_t count, int64_t grain, int64_t work, Body body) {
  const int64_t grains = (count + grain - 1) / grain;
  const int64_t worthwhile = std::max<int64_t>(1, count * work / kElementsWorthAThread);
  const int threads = int(std::min({int64_t(stream.threads()), grains, worthwhile}));
  if (threads <= 1) {
    if (count > 0) body(int64_t(0), count);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    const int64_t begin = grains * thread / team * grain;
    const int64_t end = std::min(count, grains * (thread + 1) / team * grain);
    if (begin < end) body(begin, end);
  }
}

/// First byte of element `index` of a view.
template <class AnyView>
auto* at(const AnyView& view, int64_t index) {
  return view.data + index * int64_t(size_of(view.dtype));
}

}  // namespace qat::cpu
