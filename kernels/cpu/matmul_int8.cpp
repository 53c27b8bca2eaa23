// The integer product of a linear layer, and the scales of its rows and columns. oneDNN's own row
// scales are its reference loops, so blocks of s32 sums are scaled here while still in cache.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/matmul_int8_rows.h"

namespace qat::cpu {
namespace {

constexpr int64_t kBlockRows = 256;

}  // namespace

size_t matmul_int8_scratch_bytes(const MatmulInt8& args) {
  const int64_t rows = std::min(kBlockRows, args.a_TK.rows());
  return size_t(rows * args.b_OK.rows()) * sizeof(int32_t);
}

void matmul_int8(const MatmulInt8& args, Stream& stream) {
  const int64_t tokens = args.a_TK.rows(), inputs = args.a_TK.cols(), outputs = args.b_OK.rows();
  auto* sums = args.scratch.as<int32_t>();
  const ScaleRow scale_row = scale_row_for(args.y_TO.dtype);
  for (int64_t t0 = 0; t0 < tokens; t0 += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, tokens - t0);
    gemm({DType::i8, DType::i32, MatmulForm::nt, rows, outputs, inputs, inputs, inputs, outputs},
         args.a_TK.as<int8_t>() + t0 * inputs, args.b_OK.data, sums, stream.threads());
#pragma omp parallel for schedule(static) num_threads(stream.threads())
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t t = t0 + i;
      const float zero = args.zero_T ? args.zero_T.as<float>()[t] : 0.0f;
      std::byte* y = args.y_TO.data + size_t(t * outputs) * size_of(args.y_TO.dtype);
      scale_row(sums + i * outputs, outputs, args.scale_T.as<float>()[t], zero,
                args.zero_T ? args.sums_O.as<int32_t>() : nullptr, args.scale_O.as<float>(), y);
    }
  }
}

}  // namespace qat::cpu
