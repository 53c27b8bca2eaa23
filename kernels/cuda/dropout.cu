// Dropout by counter, with the CPU's bits: a thread takes the eight elements that one Philox call
// serves. Reads a tensor, writes one.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"
#include "kernels/random.h"

namespace qat::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    drop(const T* x, T* y, const int64_t* position, int64_t count, int64_t cols, uint32_t threshold,
         uint64_t seed) {
  const int64_t step = position[0], first = position[1] * cols;
  const float keep = 65536.0f / float(65536 - threshold);
  const int64_t eight = first / 8 + int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
  const auto words = philox(seed, uint64_t(step), uint64_t(eight));
  for (int k = 0; k < 8; ++k) {
    const int64_t i = eight * 8 + k - first;
    if (i < 0 || i >= count) continue;
    const uint32_t bits = words[size_t(k / 2)] >> (k % 2 * 16) & 0xFFFFu;
    y[i] = narrow<T>(bits >= threshold ? to_float(x[i]) * keep : 0.0f);
  }
}

}  // namespace

void dropout(const Dropout& args, Stream& stream) {
  const int64_t count = args.x_TC.count();
  const auto threshold = uint32_t(std::lround(args.rate * 65536.0f));
  // Wherever the first row lies among the eights, one more than fit covers all.
  const Blocks blocks{divided_up(count / 8 + 2, kBlockThreads)};
  with_float(args.x_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(drop<T>, blocks, kBlockThreads, 0, stream, args.x_TC.as<T>(), args.y_TC.as<T>(),
           args.position.as<int64_t>(), count, args.x_TC.cols(), threshold, args.seed);
  });
}

}  // namespace qat::cuda
