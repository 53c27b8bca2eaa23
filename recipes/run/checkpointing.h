// What of the Store a checkpoint of a run holds: masters, moments, calibrated scales, and
// the codes of a solver.
#pragma once

#include <vector>

#include "engine/dist/sharding.h"
#include "engine/runtime/store.h"
#include "engine/train/checkpoint.h"
#include "models/source.h"

namespace qat {

/// Everything that training changes, or that was computed before it and must not be again: this
/// rank's part of it.
std::vector<CheckpointTensor> checkpoint_tensors(const Store& store, const Sharding& sharding);

/// Reads everything back into the Store (made where missing): of what is split over the ranks its
/// own rows. `trained` is what a checkpoint of this run holds of the model: all its parameters, or
/// those of its adapters. Refuses missing or foreign tensors.
void restore_everything(const Checkpoint& checkpoint, const std::vector<SourceTensor>& trained,
                        const Sharding& sharding, Store& store);
/// Reads only what the model needs: parameters, scales and codes, all rows of them.
void restore_model(const Checkpoint& checkpoint, const std::vector<SourceTensor>& trained,
                   Store& store);
/// Refuses a checkpoint of adapters that were trained on another base than the one in the Store
/// (see base_identity).
void check_base(const Checkpoint& checkpoint, const std::string& base, const std::string& source);

}  // namespace qat
