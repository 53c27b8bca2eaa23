#include "engine/ptq/gram.h"

#include <cmath>

#include "engine/core/error.h"
#include "engine/ptq/parallel_rows.h"
#include "engine/ptq/values.h"

namespace qat {

Gram::Gram(int64_t columns)
    : columns_(columns),
      sums_(size_t(columns * columns)),
      magnitudes_(size_t(columns)),
      batch_(size_t(columns * columns)) {}

size_t Gram::bytes(int64_t columns) {
  return size_t(columns * columns) * (sizeof(double) + sizeof(float)) +
         size_t(columns) * sizeof(double);
}

void Gram::add(const View& x, int64_t rows, const KernelTable& kernels, Stream& stream) {
  if (x.cols() != columns_ || rows > x.rows()) internal_error("Gram: an input of another shape");
  const View seen{x.data, {rows, columns_}, x.dtype};
  const View products{
      reinterpret_cast<std::byte*>(batch_.data()), {columns_, columns_}, DType::f32};
  kernels.matmul.run({seen, seen, products, MatmulForm::tn, false}, stream);
  parallel_rows(stream, columns_, [&](int64_t row) {
    for (int64_t i = row * columns_; i < (row + 1) * columns_; ++i)
      sums_[size_t(i)] += double(batch_[size_t(i)]);
  });
  // Columns are split in strips, so that each is summed by one thread in the order of the tokens.
  constexpr int64_t kStrip = 64;
  parallel_rows(stream, (columns_ + kStrip - 1) / kStrip, [&](int64_t strip) {
    const int64_t begin = strip * kStrip, end = std::min(columns_, begin + kStrip);
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t c = begin; c < end; ++c)
        magnitudes_[size_t(c)] += double(std::fabs(value_at(x, t * columns_ + c)));
  });
  tokens_ += rows;
}

void Gram::check(const std::string& path) const {
  if (tokens_ == 0) refuse("{}: no calibration token was seen", path);
  for (const double value : sums_)
    if (!std::isfinite(value))
      throw Error(
          Exit::diverged,
          fmt::format("calibration: the input of {} is not finite (or its squares are not); "
                      "the model or its weights are damaged",
                      path));
}

void Gram::divide_columns(std::span<const float> factors) {
  if (int64_t(factors.size()) != columns_) internal_error("Gram: {} factors", factors.size());
  for (int64_t r = 0; r < columns_; ++r) {
    const double row = double(factors[size_t(r)]);
    magnitudes_[size_t(r)] /= row;
    for (int64_t c = 0; c < columns_; ++c)
      sums_[size_t(r * columns_ + c)] /= row * double(factors[size_t(c)]);
  }
}

std::vector<float> Gram::mean_magnitudes() const {
  std::vector<float> means;
  for (const double sum : magnitudes_) means.push_back(float(sum / double(tokens_)));
  return means;
}

}  // namespace qat
