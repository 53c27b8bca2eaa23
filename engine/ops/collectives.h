// The ops by which the ranks of a run exchange values.
#pragma once

#include "engine/dist/sharding.h"
#include "engine/graph/op.h"

namespace qat {

/// Attributes of all_gather, reduce_scatter and take_rows; all_reduce has the Communicator* alone.
struct DealtRows {
  Communicator* ranks;
  Partition rows;
};

/// [rows of this rank, ...] -> [all rows, ...], any dtype.
extern const Op kAllGather;
/// [all rows, ...] f32 -> the sum over the ranks of this rank's rows; the input is scratch after
/// it.
extern const Op kReduceScatter;
/// f32: the sum over the ranks.
extern const Op kAllReduce;
/// [all rows, ...] -> this rank's rows; nothing is exchanged.
extern const Op kTakeRows;

}  // namespace qat
