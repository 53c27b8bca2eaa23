// Adding a bias to rows, in place. Reads and writes one tensor.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class T>
struct BiasRun {
  const float* bias;
  T* y;
  int64_t cols;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth], b[kWidth];
    load(y + i, v);
    load(bias + i % cols, b);
    for (int k = 0; k < kWidth; ++k) v[k] += b[k];
    store(y + i, v);
  }
};

}  // namespace

void bias_add(const BiasAdd& args, Stream& stream) {
  const int64_t cols = args.bias_O.count();
  const bool wide = fits_wide(cols, args.y_TO.data, args.bias_O.data);
  with_float(args.y_TO.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.y_TO.count(), wide,
                BiasRun<T>{args.bias_O.as<float>(), args.y_TO.as<T>(), cols});
  });
}

}  // namespace qat::cuda
