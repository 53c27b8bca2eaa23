// Sum over rows, by chunks of 64 rows, then over the chunks in order: the CPU's order. Reads x (and
// times) once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

constexpr int64_t kChunkRows = 64;

template <class T>
struct ChunkRun {
  const T *x, *times;  ///< times may be null
  float* partial;
  int64_t rows, cols;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t chunk = i / cols, column = i % cols, first = chunk * kChunkRows;
    const int64_t last = first + kChunkRows < rows ? first + kChunkRows : rows;
    float total[kWidth], v[kWidth], by[kWidth];
    for (int k = 0; k < kWidth; ++k) total[k] = 0.0f;
    for (int64_t row = first; row < last; ++row) {
      load(x + row * cols + column, v);
      if (times) load(times + row * cols + column, by);
      for (int k = 0; k < kWidth; ++k) total[k] += times ? v[k] * by[k] : v[k];
    }
    store(partial + i, total);
  }
};

}  // namespace

size_t column_sum_scratch_bytes(const ColumnSum& args) {
  return size_t(divided_up(args.x_TC.rows(), kChunkRows) * args.x_TC.cols()) * sizeof(float);
}

void column_sum(const ColumnSum& args, Stream& stream) {
  const int64_t cols = args.x_TC.cols(), rows = args.x_TC.rows();
  const int64_t chunks = divided_up(rows, kChunkRows);
  float* partial = args.scratch.as<float>();
  const bool wide = fits_wide(cols, args.x_TC.data, args.times_TC.data, args.scratch.data);
  with_float(args.x_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, chunks * cols, wide,
                ChunkRun<T>{args.x_TC.as<T>(), args.times_TC.as<T>(), partial, rows, cols});
  });
  elementwise(stream, cols, false,
              FoldRows{partial, args.out_C.as<float>(), chunks, cols, args.accumulate});
}

}  // namespace qat::cuda
