// A matrix plus a low-rank product, and the lengths of its rows, in pieces of 256 rows.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {
namespace {
constexpr int64_t kPieceRows = 256;
}

size_t adapter_merge_scratch_bytes(const AdapterMerge& args) {
  if (args.y_OK) return 0;
  return size_t(std::min(kPieceRows, args.w_OK.rows()) * args.w_OK.cols()) * sizeof(float);
}

void adapter_merge(const AdapterMerge& args, Stream& stream) {
  const int64_t rows = args.w_OK.rows(), cols = args.w_OK.cols();
  const int64_t rank = args.a_RK ? args.a_RK.rows() : 0;
  for (int64_t first = 0; first < rows; first += kPieceRows) {
    const int64_t count = std::min(kPieceRows, rows - first);
    float* y = args.y_OK ? args.y_OK.as<float>() + first * cols : args.scratch.as<float>();
    over_ranges(stream, count, 1, cols, [&](int64_t begin, int64_t end) {
      vector_kernels().convert(at(args.w_OK, (first + begin) * cols), args.w_OK.dtype,
                               y + begin * cols, DType::f32, (end - begin) * cols);
    });
    if (rank > 0)
      gemm({.in = DType::f32,
            .out = DType::f32,
            .form = MatmulForm::nn,
            .m = count,
            .n = cols,
            .k = rank,
            .lda = rank,
            .ldb = cols,
            .ldc = cols,
            .accumulate = true},
           args.b_OR.as<float>() + first * rank, args.a_RK.data, y, stream.threads());
    if (!args.norm_O) continue;
    over_ranges(stream, count, 1, cols, [&](int64_t begin, int64_t end) {
      int64_t bad = 0;
      for (int64_t row = begin; row < end; ++row)
        args.norm_O.as<float>()[first + row] =
            float(std::sqrt(vector_kernels().sum_squares(y + row * cols, DType::f32, cols, &bad)));
    });
  }
}

}  // namespace qat::cpu
