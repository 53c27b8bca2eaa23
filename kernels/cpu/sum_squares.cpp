// Sum of squares in f64, by 256 fixed chunks folded in order.
#include <algorithm>
#include <array>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void sum_squares(const SumSquares& args, Stream& stream) {
  constexpr int64_t kChunks = 256;
  const ConstView& x = args.x;
  const int64_t count = x.count(), size = ((count + kChunks - 1) / kChunks + 63) / 64 * 64;
  std::array<double, kChunks> sums{};
  std::array<int64_t, kChunks> bad{};
  over_ranges(stream, kChunks, 1, size, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = std::min(count, chunk * size), last = std::min(count, first + size);
      sums[size_t(chunk)] =
          vector_kernels().sum_squares(at(x, first), x.dtype, last - first, &bad[size_t(chunk)]);
    }
  });
  double total = 0.0;
  for (double sum : sums) total += sum;
  args.out[0] += total;
  for (int64_t found : bad) args.out[1] += double(found);
}

}  // namespace qat::cpu
