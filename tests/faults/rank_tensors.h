// What each of several ranks saves of the tensors of a step: rows of the large one, and rank 0 the
// rest.
#pragma once

#include <vector>

#include "engine/dist/communicator.h"
#include "tests/faults/step_tensors.h"

namespace qat {

inline std::vector<CheckpointTensor> own_tensors(const StepTensors& tensors,
                                                 const Communicator& ranks) {
  const std::vector<CheckpointTensor> all = tensors.list();
  if (ranks.size() == 1) return all;
  std::vector<CheckpointTensor> own;
  CheckpointTensor dealt = all[0];
  const int64_t rows = dealt.view.shape[0];
  const int64_t begin = rows * ranks.rank() / ranks.size();
  const int64_t end = rows * (ranks.rank() + 1) / ranks.size();
  dealt.first_row = begin;
  dealt.all_rows = rows;
  dealt.view.data += size_t(begin) * size_of(dealt.view.dtype);
  dealt.view.shape = {end - begin};
  own.push_back(dealt);
  if (ranks.rank() == 0) own.insert(own.end(), all.begin() + 1, all.end());
  return own;
}

}  // namespace qat
