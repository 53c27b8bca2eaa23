#include "engine/ptq/solved_matrix.h"

#include "engine/ptq/parallel_rows.h"

namespace qat {

namespace {

template <class T>
View view_of(std::vector<T>& values, Shape shape, DType dtype) {
  return {reinterpret_cast<std::byte*>(values.data()), shape, dtype};
}

}  // namespace

SolvedMatrix::SolvedMatrix(const QuantSpec& grid_spec, int64_t row_count, int64_t column_count)
    : spec(grid_spec), rows(row_count), columns(column_count) {
  codes.resize(size_t(rows * columns));
  const int64_t grids = spec.per == Per::tensor ? 1 : rows * groups();
  scales.resize(size_t(grids));
  if (!spec.symmetric()) seconds.resize(size_t(grids));
}

std::vector<float> SolvedMatrix::values() const {
  std::vector<float> out(codes.size());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column)
      out[size_t(row * columns + column)] = value(row, column);
  return out;
}

int8_t nearest_code(float value, const QuantSpec& spec, Grid grid) {
  return int8_t(code_of(value - grid.minimum, 1.0f / grid.scale, grid.zero, code_range(spec)));
}

float within_cell(float value, int8_t code, const QuantSpec& spec, Grid grid) {
  constexpr float kAlmostHalf = 0.49f;
  const float center = value_of(float(code), grid), reach = kAlmostHalf * magnitude(grid.scale);
  const float bounded = magnitude(value - center) <= 0.5f * magnitude(grid.scale)
                            ? value
                            : smaller(larger(value, center - reach), center + reach);
  return nearest_code(bounded, spec, grid) == code ? bounded : center;
}

SolvedMatrix round_to_nearest(const float* w_OK, int64_t rows, int64_t columns,
                              const QuantSpec& spec, const KernelTable& kernels, Stream& stream) {
  SolvedMatrix result(spec, rows, columns);
  const Shape grids = spec.per == Per::tensor ? Shape{1} : Shape{rows, result.groups()};
  Quantize args;
  args.x = {reinterpret_cast<const std::byte*>(w_OK), {rows, columns}, DType::f32};
  args.codes = view_of(result.codes, {rows, columns}, DType::i8);
  args.scale = view_of(result.scales, grids, DType::f32);
  if (!spec.symmetric()) args.zero = view_of(result.seconds, grids, DType::f32);
  args.spec = spec;
  kernels.quantize.run(args, stream);
  return result;
}

std::vector<double> OutputSquares::by_row(const std::vector<float>& a_OK) {
  const int64_t rows = int64_t(a_OK.size()) / columns_;
  product_.resize(a_OK.size());
  Matmul args{};
  args.a = {reinterpret_cast<const std::byte*>(a_OK.data()), {rows, columns_}, DType::f32};
  args.b = view_of(sums_, {columns_, columns_}, DType::f32);
  args.c = view_of(product_, {rows, columns_}, DType::f32);
  args.form = MatmulForm::nn;
  kernels_.matmul.run(args, stream_);
  std::vector<double> squares(static_cast<size_t>(rows));
  parallel_rows(stream_, rows, [&](int64_t row) {
    for (int64_t i = row * columns_; i < (row + 1) * columns_; ++i)
      squares[size_t(row)] += double(product_[size_t(i)]) * double(a_OK[size_t(i)]);
  });
  return squares;
}

double OutputSquares::total(const std::vector<float>& a_OK) {
  double sum = 0.0;
  for (const double square : by_row(a_OK)) sum += square;
  return sum;
}

double OutputSquares::relative_error(const std::vector<float>& w_OK,
                                     const std::vector<float>& q_OK) {
  std::vector<float> error = q_OK;
  for (size_t i = 0; i < error.size(); ++i) error[i] -= w_OK[i];
  const double size = total(w_OK);
  return size > 0.0 ? total(error) / size : 0.0;
}

}  // namespace qat
