// Products with a number, with one factor a column or a row; quotients; dot products of rows. Each
// tensor is read once and written once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class T>
struct ScaleRun {
  const T* x;
  T* y;
  float by;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth];
    load(x + i, v);
    for (int k = 0; k < kWidth; ++k) v[k] = v[k] * by + 0.0f;
    store(y + i, v);
  }
};

template <class T>
struct AxisRun {
  const T* x;
  const float *factor, *bias;  ///< bias may be null
  T* y;
  int64_t cols;
  bool by_column;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t row = i / cols, column = i % cols;
    float v[kWidth], f[kWidth], b[kWidth];
    load(x + i, v);
    if (by_column) load(factor + column, f);
    if (bias) load(bias + column, b);
    for (int k = 0; k < kWidth; ++k)
      v[k] = v[k] * (by_column ? f[k] : factor[row]) + (bias ? b[k] : 0.0f);
    store(y + i, v);
  }
};

struct DivideRun {
  const float *a, *b;
  float* y;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float u[kWidth], v[kWidth];
    load(a + i, u);
    load(b + i, v);
    for (int k = 0; k < kWidth; ++k) u[k] = u[k] / v[k];
    store(y + i, u);
  }
};

__global__ void __launch_bounds__(kBlockThreads)
    dot_rows(const float* a, const float* b, float* out, int64_t rows, int64_t cols,
             bool accumulate, Team team) {
  const int64_t row = int64_t(blockIdx.x) * (kBlockThreads / team.size) + team.index();
  const int64_t start = (row < rows ? row : 0) * cols;
  double sum = 0.0;
  for (int64_t i = team.rank(); i < cols; i += team.size)
    sum += double(a[start + i]) * double(b[start + i]);
  sum = team.reduce(sum, Sum{});
  if (row < rows && team.rank() == 0) out[row] = float(accumulate ? double(out[row]) + sum : sum);
}

}  // namespace

void scale(const Scale& args, Stream& stream) {
  const bool wide = fits_wide(args.y.count(), args.x.data, args.y.data);
  with_float(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.y.count(), wide, ScaleRun<T>{args.x.as<T>(), args.y.as<T>(), args.by});
  });
}

void scale_axis(const ScaleAxis& args, Stream& stream) {
  const int64_t cols = args.y_TC.cols();
  const bool by_column = args.by == ScaleAxis::By::column;
  const bool wide = fits_wide(cols, args.x_TC.data, args.y_TC.data, args.bias_C.data) &&
                    (!by_column || fits_wide(cols, args.factor.data));
  with_float(args.y_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.y_TC.count(), wide,
                AxisRun<T>{args.x_TC.as<T>(), args.factor.as<float>(), args.bias_C.as<float>(),
                           args.y_TC.as<T>(), cols, by_column});
  });
}

void divide(const Divide& args, Stream& stream) {
  const bool wide = fits_wide(args.y.count(), args.a.data, args.b.data, args.y.data);
  elementwise(stream, args.y.count(), wide,
              DivideRun{args.a.as<float>(), args.b.as<float>(), args.y.as<float>()});
}

void row_dot(const RowDot& args, Stream& stream) {
  const int64_t rows = args.a_TC.rows(), cols = args.a_TC.cols();
  const Team team = team_for(cols, false);
  launch(dot_rows, team_blocks(rows, team), kBlockThreads, 0, stream, args.a_TC.as<float>(),
         args.b_TC.as<float>(), args.out_T.as<float>(), rows, cols, args.accumulate, team);
}

}  // namespace qat::cuda
