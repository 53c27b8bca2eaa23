// Elementwise sum. Reads two tensors, writes one.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class T>
struct AddRun {
  const T *a, *b;
  T* y;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float u[kWidth], v[kWidth];
    load(a + i, u);
    load(b + i, v);
    for (int k = 0; k < kWidth; ++k) u[k] += v[k];
    store(y + i, u);
  }
};

}  // namespace

void add(const Add& args, Stream& stream) {
  const bool wide = fits_wide(args.y.count(), args.a.data, args.b.data, args.y.data);
  with_float(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.y.count(), wide,
                AddRun<T>{args.a.as<T>(), args.b.as<T>(), args.y.as<T>()});
  });
}

}  // namespace qat::cuda
