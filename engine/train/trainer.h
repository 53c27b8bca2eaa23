// The training loop: knows programs, store, optimizer and batches; knows no model.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/data/batch.h"
#include "engine/dist/sharding.h"
#include "engine/passes/passes.h"
#include "engine/runtime/program.h"
#include "engine/train/loss_watch.h"
#include "engine/train/optimizer.h"

namespace qat {

/// A forward and backward graph with every pass applied.
struct TrainingGraph {
  Graph graph;
  Id sums = kNone;  ///< of the loss (see head_loss)
  std::vector<ParameterGradient> gradients;
};

/// What a spike of the loss does to its step.
enum class OnSpike : uint8_t {
  train,
  skip,      ///< it is left out
  roll_back  ///< it is left out, and the caller goes back to a checkpoint
};

struct TrainerSettings {
  int64_t batch = 1;        ///< sequences a step, over all ranks
  int64_t micro_batch = 1;  ///< sequences a run of the program; divides a rank's part of batch
  int64_t sequence = 1;
  float cross_entropy = 1.0f, kl = 0.0f;  ///< weights of the reported loss
  double clip_grad_norm = 1.0;            ///< 0: no clipping
  int64_t max_bad_steps = 10;             ///< non-finite steps in a row before giving up
  double spike_z = 0;  ///< a z-score of the loss from which on it is a spike; 0: none is
  OnSpike on_spike = OnSpike::train;
  OptimizerSettings optimizer;
  CompileOptions compile;
  Sharding sharding;
};

/// What a step did, the same on every rank but for the seconds.
struct StepResult {
  int64_t step = 0;  ///< counts from 1
  double loss = 0, cross_entropy = 0, kl = 0, learning_rate = 0, grad_norm = 0;
  int64_t tokens = 0;  ///< counted targets
  int64_t enabled_layers = 0;
  double seconds = 0;            ///< of the whole step
  double optimizer_seconds = 0;  ///< of the parameters' update in it
  bool skipped = false;          ///< nothing but the data position moved on
  std::optional<double> spike;   ///< the loss's z-score, when that is a spike
};

/// What a trainer remembers from step to step, for checkpoints.
struct TrainerState {
  int64_t finished_steps = 0;
  int64_t bad_steps = 0;      ///< non-finite ones in a row
  int64_t skipped_steps = 0;  ///< since the start of the run
  std::vector<double> recent_losses;
};

class Trainer {
 public:
  using BuildGraph = std::function<TrainingGraph(const EnabledLayers&)>;
  using LayersAt = std::function<EnabledLayers(int64_t step)>;
  using LearningRateAt = std::function<double(int64_t step)>;
  /// This rank's rows of the next batch of so many.
  using NextBatch = std::function<Batch(int64_t rows)>;
  using LayersJoin = std::function<void(const EnabledLayers&)>;
  using JoinedAt = std::function<int64_t(const std::string& parameter)>;

  /// layers_at and learning_rate_at are asked with the number of finished steps (0 before the
  /// first).
  Trainer(const TrainerSettings& settings, Store& store, const KernelTable& kernels, Stream& stream,
          const std::vector<std::string>& trained, NextBatch next_batch, BuildGraph build,
          LayersAt layers_at, LearningRateAt learning_rate_at);

  /// One optimizer step. Throws Error(diverged) after max_bad_steps non-finite ones in a row.
  StepResult step();

  int64_t finished_steps() const { return finished_; }
  TrainerState state() const;
  /// Continues after a resume; the Store and the data position are restored by the caller.
  void resume_at(const TrainerState& state);
  /// What a step needs of the arena now and at its largest, for the memory plan.
  const Program& program();
  /// What is done before the step at which layers are quantized for the first time (not at step 0),
  /// and the steps of the run before a parameter's first. Both follow from the step alone.
  void on_join(LayersJoin layers_join, JoinedAt joined_at);
  /// Called in a step before it changes anything that a checkpoint holds.
  void before_change(std::function<void()> before_change) {
    before_change_ = std::move(before_change);
  }
  /// Adds the time of every launch to *times (null: stops).
  void profile_into(std::vector<Program::OpTime>* times) { times_ = times; }

 private:
  void compile(const EnabledLayers& layers);
  void layers_change();
  int64_t own_rows() const;
  View owned(const ParameterGradient& gradient) const;
  std::string first_bad_gradient(double* sums);
  std::string first_of_ranks(const std::string& found) const;
  void fill_inputs(const Batch& batch, int64_t first_row);
  bool is_spike(StepResult& result);
  std::string first_not_finite(const Batch& batch);

  TrainerSettings settings_;
  Store& store_;
  const KernelTable& kernels_;
  Stream& stream_;
  NextBatch next_batch_;
  BuildGraph build_;
  LayersAt layers_at_;
  LearningRateAt learning_rate_at_;
  LayersJoin layers_join_;
  JoinedAt joined_at_;
  std::function<void()> before_change_ = [] {};
  Optimizer optimizer_;
  std::optional<Program> program_;
  EnabledLayers compiled_for_;
  Id sums_ = kNone;
  std::vector<ParameterGradient> gradients_;
  int64_t finished_ = 0, bad_steps_ = 0, skipped_ = 0;
  LossWatch losses_;
  std::vector<Program::OpTime>* times_ = nullptr;
};

}  // namespace qat
