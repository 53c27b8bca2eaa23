// Sum over rows, by chunks of 64 rows, then over the chunks in order.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {
namespace {

constexpr int64_t kChunkRows = 64;

int64_t chunks_of(int64_t rows) {
  return (rows + kChunkRows - 1) / kChunkRows;
}

}  // namespace

size_t column_sum_scratch_bytes(const ColumnSum& args) {
  return size_t(chunks_of(args.x_TC.rows()) * args.x_TC.cols()) * sizeof(float);
}

void column_sum(const ColumnSum& args, Stream& stream) {
  const ConstView& x = args.x_TC;
  const int64_t cols = x.cols(), rows = x.rows(), chunks = chunks_of(rows);
  float* partial = args.scratch.as<float>();
  over_ranges(stream, chunks, 1, kChunkRows * cols, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float* sums = partial + chunk * cols;
      std::fill_n(sums, cols, 0.0f);
      const int64_t last = std::min((chunk + 1) * kChunkRows, rows);
      for (int64_t row = chunk * kChunkRows; row < last; ++row) {
        const auto* values = at(x, row * cols);
        if (args.times_TC)
          vector_kernels().accumulate_product(sums, values, at(args.times_TC, row * cols), x.dtype,
                                              cols);
        else
          vector_kernels().accumulate(sums, values, x.dtype, cols);
      }
    }
  });
  float* out = args.out_C.as<float>();
  if (!args.accumulate) std::fill_n(out, cols, 0.0f);
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    vector_kernels().accumulate(out, partial + chunk * cols, DType::f32, cols);
}

}  // namespace qat::cpu
