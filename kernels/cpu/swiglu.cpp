// silu(gate) * up and its gradient.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void swiglu(const SwiGlu& args, Stream& stream) {
  const auto& [gate, up, y] = args;
  over_ranges(stream, y.count(), 64, 2, [&](int64_t begin, int64_t end) {
    vector_kernels().swiglu(at(gate, begin), at(up, begin), at(y, begin), y.dtype, end - begin);
  });
}

void swiglu_backward(const SwiGluBackward& args, Stream& stream) {
  const auto& [dy, gate, up, dgate, dup] = args;
  over_ranges(stream, dy.count(), 64, 3, [&](int64_t begin, int64_t end) {
    vector_kernels().swiglu_backward(at(dy, begin), at(gate, begin), at(up, begin),
                                     at(dgate, begin), at(dup, begin), dy.dtype, end - begin);
  });
}

}  // namespace qat::cpu
