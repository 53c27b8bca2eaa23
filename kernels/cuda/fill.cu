// One value everywhere. Writes a tensor.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class T>
struct FillRun {
  T* y;
  float value;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth];
    for (int k = 0; k < kWidth; ++k) v[k] = value;
    store(y + i, v);
  }
};

}  // namespace

void fill(const Fill& args, Stream& stream) {
  const bool wide = fits_wide(args.y.count(), args.y.data);
  with_float(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.y.count(), wide, FillRun<T>{args.y.as<T>(), args.value});
  });
}

}  // namespace qat::cuda
