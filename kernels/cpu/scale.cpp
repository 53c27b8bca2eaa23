// Products with a number, with one factor a column or a row; quotients; dot products of rows.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void scale(const Scale& args, Stream& stream) {
  over_ranges(stream, args.y.count(), 64, 1, [&](int64_t begin, int64_t end) {
    vector_kernels().scale(at(args.x, begin), at(args.y, begin), args.y.dtype, nullptr, args.by,
                           nullptr, end - begin);
  });
}

void scale_axis(const ScaleAxis& args, Stream& stream) {
  const int64_t cols = args.y_TC.cols();
  const float* factor = args.factor.as<float>();
  const float* bias = args.bias_C ? args.bias_C.as<float>() : nullptr;
  const bool by_column = args.by == ScaleAxis::By::column;
  over_ranges(stream, args.y_TC.rows(), 1, cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      vector_kernels().scale(at(args.x_TC, row * cols), at(args.y_TC, row * cols), args.y_TC.dtype,
                             by_column ? factor : nullptr, by_column ? 1.0f : factor[row], bias,
                             cols);
  });
}

void divide(const Divide& args, Stream& stream) {
  over_ranges(stream, args.y.count(), 64, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      args.y.as<float>()[i] = args.a.as<float>()[i] / args.b.as<float>()[i];
  });
}

void row_dot(const RowDot& args, Stream& stream) {
  const int64_t cols = args.a_TC.cols();
  over_ranges(stream, args.a_TC.rows(), 1, cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* a = args.a_TC.as<float>() + row * cols;
      const float* b = args.b_TC.as<float>() + row * cols;
      double sum = 0.0;
      for (int64_t i = 0; i < cols; ++i) sum += double(a[i]) * double(b[i]);
      float& out = args.out_T.as<float>()[row];
      out = float(args.accumulate ? double(out) + sum : sum);
    }
  });
}

}  // namespace qat::cpu
