#include "engine/dist/partition.h"

#include <algorithm>
#include <numeric>

namespace qat {

Partition deal_rows(int64_t rows, int64_t cols, int ranks) {
  const int64_t unit =
      kMomentBlock / std::gcd(kMomentBlock, cols);  // the fewest rows that are whole blocks
  const int64_t units = (rows + unit - 1) / unit;
  std::vector<int64_t> bounds;
  for (int rank = 0; rank <= ranks; ++rank)
    bounds.push_back(std::min(rows, units * rank / ranks * unit));
  return {std::move(bounds), cols};
}

Partition with_cols(const Partition& partition, int64_t cols) {
  return {partition.bounds(), cols};
}

Partition in_blocks(const Partition& partition) {
  std::vector<int64_t> bounds;
  for (const int64_t row : partition.bounds())
    bounds.push_back((row * partition.cols() + kMomentBlock - 1) / kMomentBlock);
  return {std::move(bounds), 1};
}

Shape with_rows(const Shape& shape, int64_t rows) {
  switch (shape.rank()) {
    case 1:
      return {rows};
    case 2:
      return {rows, shape[1]};
    case 3:
      return {rows, shape[1], shape[2]};
    default:
      return {rows, shape[1], shape[2], shape[3]};
  }
}

View rows_of(const View& tensor, Rows rows) {
  const size_t row = tensor.bytes() / size_t(std::max<int64_t>(tensor.shape[0], 1));
  return {tensor.data + size_t(rows.begin) * row, with_rows(tensor.shape, rows.count()),
          tensor.dtype};
}

}  // namespace qat
