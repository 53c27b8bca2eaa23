// Conversion between f32 and bf16.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void cast(const Cast& args, Stream& stream) {
  const auto& [x, y] = args;
  over_ranges(stream, x.count(), 64, 1, [&](int64_t begin, int64_t end) {
    vector_kernels().convert(at(x, begin), x.dtype, at(y, begin), y.dtype, end - begin);
  });
}

}  // namespace qat::cpu
