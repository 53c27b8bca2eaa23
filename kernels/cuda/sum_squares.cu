// Sum of squares in f64 by fixed chunks, folded in order. Reads x once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"
#include "kernels/quant_math.h"

namespace qat::cuda {
namespace {

constexpr int64_t kParts = 1024;

struct Part {
  double sum, bad;
};
static_assert(kParts * sizeof(Part) <= kWorkspaceBytes);

template <class T, int kWidth>
__global__ void __launch_bounds__(kBlockThreads)
    square_parts(const T* x, int64_t count, int64_t part_size, Part* parts) {
  const int64_t begin = int64_t(blockIdx.x) * part_size;
  const int64_t end = begin + part_size < count ? begin + part_size : count;
  double sum = 0.0, bad = 0.0;
  for (int64_t i = begin + threadIdx.x * kWidth; i < end; i += kBlockThreads * kWidth) {
    float v[kWidth];
    load(x + i, v);
    for (int k = 0; k < kWidth; ++k) {
      sum += double(v[k]) * double(v[k]);
      if (!(magnitude(v[k]) <= kLargestFloat)) bad += 1.0;
    }
  }
  const Team block{kBlockThreads};
  sum = block.reduce(sum, Sum{});
  bad = block.reduce(bad, Sum{});
  if (threadIdx.x == 0) parts[blockIdx.x] = {sum, bad};
}

__global__ void __launch_bounds__(kBlockThreads)
    fold_parts(const Part* parts, int64_t count, double* out) {
  double sum = 0.0, bad = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) {
    sum += parts[i].sum;
    bad += parts[i].bad;
  }
  const Team block{kBlockThreads};
  sum = block.reduce(sum, Sum{});
  bad = block.reduce(bad, Sum{});
  if (threadIdx.x != 0) return;
  out[0] += sum;
  out[1] += bad;
}

}  // namespace

void sum_squares(const SumSquares& args, Stream& stream) {
  const int64_t count = args.x.count(), grain = kBlockThreads * kWide;
  const int64_t part_size = divided_up(divided_up(count, kParts), grain) * grain;
  const int64_t parts = count == 0 ? 0 : divided_up(count, part_size);
  const bool wide = fits_wide(count, args.x.data);
  auto* work = workspace_of<Part>(stream);
  with_float(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(wide ? square_parts<T, kWide> : square_parts<T, 1>, Blocks{parts}, kBlockThreads, 0,
           stream, args.x.as<T>(), count, part_size, work);
  });
  launch(fold_parts, Blocks{1}, kBlockThreads, 0, stream, work, parts, args.out);
}

}  // namespace qat::cuda
