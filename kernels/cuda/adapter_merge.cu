// A matrix plus a low-rank product, and the lengths of its rows, in pieces of 1024 rows. Reads w
// once, writes y once and reads it for the product and the lengths.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

constexpr int64_t kPieceRows = 1024;

__global__ void __launch_bounds__(kBlockThreads)
    row_lengths(const float* y, float* norm, int64_t rows, int64_t cols, Team team) {
  const int64_t row = int64_t(blockIdx.x) * (kBlockThreads / team.size) + team.index();
  const float* values = y + (row < rows ? row : 0) * cols;
  double sum = 0.0;
  for (int64_t i = team.rank(); i < cols; i += team.size)
    sum += double(values[i]) * double(values[i]);
  sum = team.reduce(sum, Sum{});
  if (row < rows && team.rank() == 0) norm[row] = float(sqrt(sum));
}

}  // namespace

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
    const ConstView piece{args.w_OK.data + size_t(first * cols) * size_of(args.w_OK.dtype),
                          {count, cols},
                          args.w_OK.dtype};
    cast({piece, {reinterpret_cast<std::byte*>(y), {count, cols}, DType::f32}}, stream);
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
           args.b_OR.as<float>() + first * rank, args.a_RK.data, y, stream);
    if (!args.norm_O) continue;
    const Team team = team_for(cols, false);
    launch(row_lengths, team_blocks(count, team), kBlockThreads, 0, stream, y,
           args.norm_O.as<float>() + first, count, cols, team);
  }
}

}  // namespace qat::cuda
