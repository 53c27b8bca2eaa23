// Which of a run's parameters are dealt over its ranks by rows.
#pragma once

#include "engine/dist/partition.h"
#include "models/graphs.h"
#include "models/source.h"

namespace qat {

/// Trained matrices that are large enough for 8-bit moments, and the trained scales of their rows;
/// where weights are split, a teacher's matrices too. Whole on every rank: norms, biases, small
/// matrices, and those whose rows share a scale. `tensors`: what the run may train, with shapes.
Partitions deal_parameters(const TrainingSpec& spec, const std::vector<SourceTensor>& tensors,
                           ZeroStage stage, int ranks);

}  // namespace qat
