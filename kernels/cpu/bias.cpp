// Adding a bias to rows.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void bias_add(const BiasAdd& args, Stream& stream) {
  const int64_t cols = args.bias_O.count(), rows = args.y_TO.count() / cols;
  over_ranges(stream, rows, 1, cols, [&](int64_t begin, int64_t end) {
    vector_kernels().add_bias(at(args.y_TO, begin * cols), args.y_TO.dtype, args.bias_O.as<float>(),
                              end - begin, cols);
  });
}

}  // namespace qat::cpu
