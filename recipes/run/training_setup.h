// From the recipe to what the engine takes: schedules, graph specification, trainer settings.
#pragma once

#include "engine/data/dataset.h"
#include "engine/quant/quant_schedule.h"
#include "engine/train/schedule.h"
#include "engine/train/trainer.h"
#include "models/graphs.h"
#include "models/prepare.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// sensitivity_order: of layers, for train.enable.order: sensitivity; empty = not measured yet, and
/// then front to back stands in for it.
QuantSchedule quant_schedule(const recipe::Recipe& recipe, const ModelConfig& config,
                             const QuantPlan& plan, const std::vector<int64_t>& sensitivity_order);
/// Smoothing, calibration, solver and sensitivity as the recipe asks for them.
PrepareOptions prepare_options(const recipe::Recipe& recipe);
Schedule learning_rate_schedule(const recipe::Recipe& recipe, const QuantSchedule& quant);
TrainingSpec training_spec(const recipe::Recipe& recipe, const ModelConfig& config,
                           const std::optional<ModelConfig>& teacher, const QuantPlan& plan,
                           const AdapterPlan& adapters, const KernelTable& kernels);
/// What a checkpoint holds of the model: all its parameters and trained scales, or those of its
/// adapters.
std::vector<SourceTensor> trained_tensors(const AdapterPlan& adapters, const ModelConfig& config,
                                          const QuantPlan& plan);
TrainerSettings trainer_settings(const recipe::Recipe& recipe, const TrainingSpec& spec);
TokenizeOptions tokenize_options(const recipe::Recipe& recipe, const TextEncoder& encoder,
                                 std::function<ChatRenderer()> renderer);
DatasetOptions dataset_options(const recipe::Recipe& recipe, const ModelConfig& config);
/// Type of the matrices in the Store: of the masters, or of what an adapter's base does not pack.
DType master_dtype(const recipe::Recipe& recipe);
EnabledLayers layers_at(const QuantSchedule& schedule, int64_t step);
/// What the trained scales of the layers that join do: they start anew, from the weights as they
/// are by then, and their moments with them.
void start_scales_as_layers_join(const QuantPlan& plan, const QuantSchedule& schedule,
                                 ScaleStart start, Store& store, const KernelTable& kernels,
                                 Stream& stream, Trainer& trainer);

/// Sequences that calibration runs at a time.
constexpr int64_t kCalibrationRows = 4;

/// Floating-point operations of one training token: 6 a weight of the body and head (2 more a
/// weight for a teacher) and attention's 12 L d T (not halved for the causal mask).
double flops_per_token(const ModelConfig& config, const std::optional<ModelConfig>& teacher,
                       int64_t sequence);

/// Floating-point operations a second of the best of a few square matmuls.
double measured_peak(DType dtype, Backend& backend);

}  // namespace qat
