#include "models/graphs.h"

#include "engine/passes/shard.h"

namespace qat {

EnabledLayers all_layers(const ModelConfig& config) {
  EnabledLayers layers;
  for (int64_t i = 0; i < config.layers; ++i) layers.insert(int(i));
  return layers;
}

TrainingGraph build_training_graph(const TrainingSpec& spec, const EnabledLayers& enabled) {
  TrainingGraph result;
  Builder b(result.graph);
  LossInputs inputs{};
  if (spec.teacher) {
    // First, so that its activations are gone before the student's accumulate.
    DecoderBuild build = spec.build;
    build.prefix = kTeacherPrefix;
    build.weight_dtype = spec.teacher_weights;
    inputs.teacher_x_TC = decoder_hidden(b, *spec.teacher, build);
    inputs.teacher_w_VC = decoder_head(b, *spec.teacher, build);
  }
  inputs.x_TC = decoder_hidden(b, spec.config, spec.build);
  inputs.w_VC = decoder_head(b, spec.config, spec.build);
  inputs.targets_T = b.input(kTargets, {spec.build.tokens()}, DType::i32);
  inputs.inv_tokens = b.input(kInvTokens, {1}, DType::f32);
  {
    Builder::Scope scope(b, kHeadPath);
    result.sums = head_loss(b, inputs, spec.loss).sums;
  }

  insert_adapters(result.graph, spec.adapters, spec.plan, enabled, DropoutMode::on);
  insert_quantizers(result.graph, spec.plan, enabled);
  result.gradients = differentiate(result.graph, spec.trained);
  if (spec.fuse == Switch::on) fuse(result.graph, spec.groups);
  recompute(result.graph, spec.recompute);
  std::vector<Id> keep = {result.sums};
  for (const ParameterGradient& g : result.gradients) keep.push_back(g.gradient);
  eliminate_dead(result.graph, keep);
  if (spec.hoist == Switch::on) hoist(result.graph);
  if (spec.sharding.shared()) {
    shard(result.graph, result.gradients, spec.sharding);
    // The matrices that were gathered as codes.
    keep = {result.sums};
    for (const ParameterGradient& g : result.gradients) keep.push_back(g.gradient);
    eliminate_dead(result.graph, keep);
  }
  verify(result.graph);
  return result;
}

ForwardGraph build_forward_graph(const ForwardSpec& spec) {
  ForwardGraph result;
  Builder b(result.graph);
  result.hidden = decoder_hidden(b, spec.config, spec.build);
  if (spec.logit_rows > 0)
    result.hidden = embedding(b, result.hidden, b.input(kLogitRows, {spec.logit_rows}, DType::i32),
                              spec.build.dtype);
  const Id head = decoder_head(b, spec.config, spec.build);
  Builder::Scope scope(b, kHeadPath);
  std::vector<Id> keep;
  if (spec.output == ForwardSpec::Output::loss) {
    LossInputs inputs{};
    inputs.x_TC = result.hidden;
    inputs.w_VC = head;
    inputs.targets_T = b.input(kTargets, {spec.build.tokens()}, DType::i32);
    inputs.inv_tokens = b.input(kInvTokens, {1}, DType::f32);
    const LossOutputs loss = head_loss(b, inputs, LossWeights{});
    result.sums = loss.sums;
    result.nll = loss.nll_T;
    keep = {result.sums, result.nll};
  } else {
    result.logits = linear_f32(b, result.hidden, head);
    keep = {result.logits};
  }
  const EnabledLayers enabled = all_layers(spec.config);
  insert_adapters(result.graph, spec.adapters, spec.plan, enabled, DropoutMode::off);
  insert_quantizers(result.graph, spec.plan, enabled);
  if (spec.fuse == Switch::on) fuse(result.graph, spec.groups);
  eliminate_dead(result.graph, keep);
  hoist(result.graph);
  verify(result.graph);
  return result;
}

}  // namespace qat
