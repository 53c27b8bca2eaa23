// The programs a model is run by: training (student, teacher, loss, gradients, passes), evaluation,
// generation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/ops/ops.h"
#include "engine/passes/insert_adapters.h"
#include "engine/passes/passes.h"
#include "engine/train/trainer.h"
#include "models/decoder.h"

namespace qat {

/// Prefix of the teacher's parameters in the Store.
constexpr const char* kTeacherPrefix = "teacher.";

enum class Switch : uint8_t { off, on };

struct TrainingSpec {
  ModelConfig config;
  std::optional<ModelConfig> teacher;  ///< absent: no distillation
  DecoderBuild build;                  ///< micro-batch, sequence, dtypes of the student
  DType teacher_weights = DType::bf16;
  QuantPlan plan;
  AdapterPlan adapters;  ///< with any, the model's own parameters are frozen
  LossWeights loss;
  std::vector<std::string> trained;  ///< parameter names
  Recompute recompute = Recompute::cheap;
  Switch fuse = Switch::on, hoist = Switch::on;
  GroupScales groups = GroupScales::float_product;  ///< what fuse does with scales by group
  Sharding sharding;                                ///< needs hoist
};

/// Forward, quantizers of the enabled layers, gradients, and every pass in order.
TrainingGraph build_training_graph(const TrainingSpec& spec, const EnabledLayers& enabled);

/// A forward graph and what it gives.
struct ForwardGraph {
  Graph graph;
  Id sums = kNone;    ///< loss sums (evaluation)
  Id nll = kNone;     ///< ce of each token (evaluation)
  Id hidden = kNone;  ///< final hidden states [T, C]
  Id logits = kNone;  ///< f32 [T, V], when asked for
};

struct ForwardSpec {
  ModelConfig config;
  DecoderBuild build;
  QuantPlan plan;
  AdapterPlan adapters = {};
  Switch fuse = Switch::off;
  GroupScales groups = GroupScales::float_product;
  enum class Output { loss, logits } output = Output::loss;
  /// Logits of so many tokens only, those that the input kLogitRows names; 0: of every token.
  int64_t logit_rows = 0;
};
/// All planned layers quantized.
ForwardGraph build_forward_graph(const ForwardSpec& spec);

/// Every decoder layer.
EnabledLayers all_layers(const ModelConfig& config);

}  // namespace qat
