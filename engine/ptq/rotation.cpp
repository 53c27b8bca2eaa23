#include "engine/ptq/rotation.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/ptq/parallel_rows.h"
#include "engine/ptq/values.h"
#include "kernels/float_types.h"
#include "kernels/hadamard.h"
#include "kernels/random.h"

namespace qat {

namespace {

void put(const View& w, int64_t i, double value) {
  if (w.dtype == DType::f32)
    w.as<float>()[i] = float(value);
  else
    w.as<BFloat16>()[i] = to_bfloat16(float(value));
}

void check(const View& w, int64_t length, const Rotation& rotation) {
  if (length % rotation.width() != 0 || (w.dtype != DType::f32 && w.dtype != DType::bf16))
    internal_error("rotation: {} of {} in pieces of {}", length, name_of(w.dtype),
                   rotation.width());
}

}  // namespace

Rotation::Rotation(int64_t width, std::optional<uint64_t> seed) : width_(width) {
  const HadamardOrder order = hadamard_order(width);
  for (int64_t k = 0; k < order.odd; ++k)
    hartley_.push_back(hartley(k, order.odd) / std::sqrt(double(width)));
  for (int64_t i = 0; seed && i < width; ++i)
    signs_.push_back(philox(*seed, 0, uint64_t(i))[0] & 1 ? -1.0 : 1.0);
}

void Rotation::apply(double* x, double* work) const {
  const auto [odd, power] = hadamard_order(width_);
  for (size_t i = 0; i < signs_.size(); ++i) x[i] *= signs_[i];
  for (int64_t step = 1; step < power; step *= 2)
    for (int64_t begin = 0; begin < width_; begin += 2 * step)
      for (int64_t i = begin; i < begin + step; ++i) {
        const double a = x[i], b = x[i + step];
        x[i] = a + b;
        x[i + step] = a - b;
      }
  std::copy_n(x, width_, work);
  std::fill_n(x, width_, 0.0);
  for (int64_t a = 0; a < odd; ++a)
    for (int64_t from = 0; from < odd; ++from) {
      const double entry = hartley_[size_t(a * from % odd)];
      for (int64_t i = 0; i < power; ++i) x[a * power + i] += work[from * power + i] * entry;
    }
}

void rotate_rows(const View& w, const Rotation& rotation, std::span<const float> factors,
                 Stream& stream) {
  const int64_t columns = w.cols(), width = rotation.width();
  check(w, columns, rotation);
  parallel_rows(stream, w.rows(), [&](int64_t row) {
    std::vector<double> x(size_t(columns) + size_t(width));
    for (int64_t c = 0; c < columns; ++c)
      x[size_t(c)] = double(value_at(w, row * columns + c)) *
                     (factors.empty() ? 1.0 : double(factors[size_t(c)]));
    for (int64_t c = 0; c < columns; c += width) rotation.apply(&x[size_t(c)], &x[size_t(columns)]);
    for (int64_t c = 0; c < columns; ++c) put(w, row * columns + c, x[size_t(c)]);
  });
}

void rotate_columns(const View& w, const Rotation& rotation, Stream& stream) {
  const int64_t rows = w.rows(), columns = w.cols(), width = rotation.width();
  check(w, rows, rotation);
  parallel_rows(stream, columns, [&](int64_t column) {
    std::vector<double> x(size_t(rows) + size_t(width));
    for (int64_t r = 0; r < rows; ++r) x[size_t(r)] = double(value_at(w, r * columns + column));
    for (int64_t r = 0; r < rows; r += width) rotation.apply(&x[size_t(r)], &x[size_t(rows)]);
    for (int64_t r = 0; r < rows; ++r) put(w, r * columns + column, x[size_t(r)]);
  });
}

}  // namespace qat
