// How much memory a training run will take, computed from its graphs before anything is allocated.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/runtime/store.h"
#include "engine/train/trainer.h"
#include "models/graphs.h"

namespace qat {

struct TrainingMemory {
  std::map<Category, size_t> bytes;  ///< by category; the arena is that of the largest program
  size_t arena_live_peak = 0;        ///< lower bound of the arena
  size_t prologue = 0;               ///< part of the arena: quantized or cast weights of a step
  size_t snapshot = 0;               ///< what a checkpoint is written from beside training
  size_t total() const;
};

/// Compiles (without memory) the programs of the first step, of a half enabled and of the fully
/// quantized model, and takes the largest.
TrainingMemory plan_training_memory(const TrainingSpec& spec, const TrainerSettings& settings,
                                    const KernelTable& kernels);

/// What a rank's part of a checkpoint takes in memory (Snapshot), but for padding.
size_t planned_snapshot(const TrainingSpec& spec, const TrainerSettings& settings);

/// The plan as lines for people; with several ranks it is that of each.
std::vector<std::string> memory_report(const TrainingMemory& memory, int ranks = 1);

}  // namespace qat
