// The integer product of a linear layer in pieces of 2048 tokens: exact s32 sums by the tensor
// cores into scratch, then one pass that scales rows and columns (reads 4 bytes and writes 2 an
// output).
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

constexpr int64_t kPieceRows = 2048;

template <class T>
struct ScaleRun {
  const int32_t* sums;
  const float *scale_T, *zero_T;  ///< zero_T may be null
  const float* scale_O;
  const int32_t* sums_O;
  T* y;
  int64_t outputs;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t row = i / outputs, column = i % outputs;
    const float by = scale_T[row];
    const int32_t shift = zero_T ? int32_t(zero_T[row]) : 0;  // zero points are whole numbers
    float v[kWidth], scales[kWidth];
    load(scale_O + column, scales);
    for (int k = 0; k < kWidth; ++k) {
      const int32_t sum = zero_T ? sums[i + k] - shift * sums_O[column + k] : sums[i + k];
      v[k] = float(sum) * (by * scales[k]);
    }
    store(y + i, v);
  }
};

}  // namespace

size_t matmul_int8_scratch_bytes(const MatmulInt8& args) {
  return size_t(std::min(kPieceRows, args.a_TK.rows()) * args.b_OK.rows()) * sizeof(int32_t);
}

void matmul_int8(const MatmulInt8& args, Stream& stream) {
  const int64_t tokens = args.a_TK.rows(), inputs = args.a_TK.cols(), outputs = args.b_OK.rows();
  auto* sums = args.scratch.as<int32_t>();
  for (int64_t t0 = 0; t0 < tokens; t0 += kPieceRows) {
    const int64_t rows = std::min(kPieceRows, tokens - t0);
    gemm({DType::i8, DType::i32, MatmulForm::nt, rows, outputs, inputs, inputs, inputs, outputs},
         args.a_TK.as<int8_t>() + t0 * inputs, args.b_OK.data, sums, stream);
    const bool wide = fits_wide(outputs, args.y_TO.data, args.scale_O.data);
    with_float(args.y_TO.dtype, [&](auto zero) {
      using T = decltype(zero);
      elementwise(stream, rows * outputs, wide,
                  ScaleRun<T>{sums, args.scale_T.as<float>() + t0,
                              args.zero_T ? args.zero_T.as<float>() + t0 : nullptr,
                              args.scale_O.as<float>(), args.sums_O.as<int32_t>(),
                              args.y_TO.as<T>() + t0 * outputs, outputs});
    });
  }
}

}  // namespace qat::cuda
