// How the rows of a tensor are dealt to the ranks of a run. What a rank holds, updates and saves of
// a tensor is one run of rows; blocks of 8-bit moments never straddle two of them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace qat {

/// Elements that share a scale in 8-bit moments; no such block lies on two ranks.
constexpr int64_t kMomentBlock = 256;

/// Rows [begin, end) of a tensor's first dimension.
struct Rows {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

/// Row bounds[r] is the first of rank r; the last bound is the number of rows. A row has `cols`
/// elements.
class Partition {
 public:
  Partition(std::vector<int64_t> bounds, int64_t cols) : bounds_(std::move(bounds)), cols_(cols) {}
  int64_t rows() const { return bounds_.back(); }
  int64_t cols() const { return cols_; }
  int64_t count() const { return rows() * cols_; }
  Rows of(int rank) const { return {bounds_[size_t(rank)], bounds_[size_t(rank) + 1]}; }
  const std::vector<int64_t>& bounds() const { return bounds_; }

 private:
  std::vector<int64_t> bounds_;
  int64_t cols_;
};

/// Nearly equal runs of rows of a [rows, cols] matrix that begin at whole moment blocks.
Partition deal_rows(int64_t rows, int64_t cols, int ranks);
/// The same rows of a tensor with other columns.
Partition with_cols(const Partition& partition, int64_t cols);
/// The same elements in moment blocks: of what holds one number a block.
Partition in_blocks(const Partition& partition);

/// A tensor's shape with other rows.
Shape with_rows(const Shape& shape, int64_t rows);
/// The view of some rows of a tensor.
View rows_of(const View& tensor, Rows rows);

/// By name; what is not listed is small and whole on every rank.
using Partitions = std::map<std::string, Partition>;

}  // namespace qat
