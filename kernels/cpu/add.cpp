// Elementwise sum.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void add(const Add& args, Stream& stream) {
  const auto& [a, b, y] = args;
  over_ranges(stream, y.count(), 64, 1, [&](int64_t begin, int64_t end) {
    vector_kernels().add(at(a, begin), at(b, begin), at(y, begin), y.dtype, end - begin);
  });
}

}  // namespace qat::cpu
