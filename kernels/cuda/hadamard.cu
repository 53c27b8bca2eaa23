// The transform of kernels/hadamard.h, a block a piece of a row, in shared memory: Sylvester's
// matrix of order 16 within sixteens, butterflies between them, then Hartley's matrix between runs;
// every sum in the CPU's order. Reads x once, writes y once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"
#include "kernels/hadamard.h"

namespace qat::cuda {
namespace {

constexpr int kOrder = 16;
constexpr size_t kMostShared = 200 << 10;

__global__ void __launch_bounds__(kBlockThreads) fill_hartley(float* numbers, int64_t odd) {
  for (int64_t k = threadIdx.x; k < odd; k += kBlockThreads)
    numbers[k] = float(hartley(k, odd) / sqrt(double(odd)));
}

QAT_DEVICE float sign_of(int i, int j) {
  int bits = i & j;
  bits ^= bits >> 2;
  bits ^= bits >> 1;
  return bits & 1 ? -1.0f : 1.0f;
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    transform_pieces(const T* x, T* y, const float* numbers, int64_t odd, int64_t power) {
  const int64_t width = odd * power, start = int64_t(blockIdx.x) * width;
  float* values = reinterpret_cast<float*>(dynamic_shared());
  float* other = values + width;
  for (int64_t i = threadIdx.x; i < width; i += kBlockThreads) values[i] = to_float(x[start + i]);
  __syncthreads();
  int64_t step = 1;
  if (power >= kOrder) {
    for (int64_t i = threadIdx.x; i < width; i += kBlockThreads) {
      const float* run = values + i / kOrder * kOrder;
      float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int k = 0; k < kOrder; ++k)
        sums[k % 4] = sums[k % 4] + run[k] * sign_of(k, int(i % kOrder));
      other[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    float* swapped = values;
    values = other;
    other = swapped;
    step = kOrder;
    __syncthreads();
  }
  for (; step < power; step *= 2) {
    for (int64_t pair = threadIdx.x; pair < width / 2; pair += kBlockThreads) {
      const int64_t i = pair / step * 2 * step + pair % step;
      const float a = values[i], b = values[i + step];
      values[i] = a + b;
      values[i + step] = a - b;
    }
    __syncthreads();
  }
  const float shrink = 1.0f / sqrtf(float(power));
  for (int64_t i = threadIdx.x; i < width; i += kBlockThreads) {
    float total = values[i];
    if (odd > 1) {
      const int64_t run = i / power;
      total = 0.0f;
      for (int64_t from = 0, k = 0; from < odd; ++from) {
        total = total + values[from * power + i % power] * numbers[k];
        k += run;
        if (k >= odd) k -= odd;
      }
    }
    y[start + i] = narrow<T>(total * shrink);
  }
}

}  // namespace

// Hartley's numbers.
size_t hadamard_scratch_bytes(const Hadamard& args) {
  return size_t(hadamard_order(args.width).odd) * sizeof(float);
}

void hadamard(const Hadamard& args, Stream& stream) {
  const HadamardOrder order = hadamard_order(args.width);
  const size_t shared = 2 * size_t(args.width) * sizeof(float);
  if (shared > kMostShared)
    throw std::logic_error("hadamard: pieces of " + std::to_string(args.width) +
                           " elements are longer than shared memory holds");
  float* numbers = args.scratch.as<float>();
  if (order.odd > 1) launch(fill_hartley, Blocks{1}, kBlockThreads, 0, stream, numbers, order.odd);
  with_float(args.x_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(transform_pieces<T>, Blocks{args.x_TC.count() / args.width}, kBlockThreads, shared,
           stream, args.x_TC.as<T>(), args.y_TC.as<T>(), numbers, order.odd, order.power);
  });
}

}  // namespace qat::cuda
