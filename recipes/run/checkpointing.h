// What of the Store a checkpoint of a run holds: masters, moments and calibrated scales.
#pragma once

#include <vector>

#include "engine/runtime/store.h"
#include "engine/train/checkpoint.h"
#include "models/config.h"

namespace qat {

/// Everything that training changes, or that was computed before it and must not be again.
std::vector<CheckpointTensor> checkpoint_tensors(const Store& store);

/// Reads everything back into the Store (made where missing). Refuses missing or foreign tensors.
void restore_everything(const Checkpoint& checkpoint, const ModelConfig& config, Store& store);
/// Reads only what the model needs: parameters and scales.
void restore_model(const Checkpoint& checkpoint, const ModelConfig& config, Store& store);

}  // namespace qat
