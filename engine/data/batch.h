// Rows of token ids as the model takes them.
#pragma once

#include <cstdint>
#include <vector>

namespace qat {

/// `rows` sequences of `sequence` tokens, row after row. Each array has rows * sequence elements
/// and is laid out as the kernels want it (i32).
struct Batch {
  int64_t rows = 0;
  int64_t sequence = 0;
  std::vector<int32_t> ids;
  std::vector<int32_t> targets;    ///< the id to predict at this token, -1 = not counted
  std::vector<int32_t> positions;  ///< place of the token in its piece of a document, from 0
  std::vector<int32_t> first;      ///< index in the row of the first token of that piece
  /// Targets that are not -1, over the rows of all ranks: the loss is divided by it.
  int64_t valid_targets = 0;
  /// The sequence number of each row of the global batch (all ranks), for messages.
  std::vector<uint64_t> samples;
};

}  // namespace qat
