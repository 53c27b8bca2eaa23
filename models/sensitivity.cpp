#include "models/sensitivity.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ops/ops.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

constexpr const char* kReference = "sensitivity.reference";

struct MeanLoss {
  double cross_entropy = 0.0, kl = 0.0;
  int64_t tokens = 0;
};

// The unquantized model's final hidden states of each batch, as they lie in memory.
std::vector<std::vector<std::byte>> reference_states(const MeasuredModel& model,
                                                     const DecoderBuild& build,
                                                     const std::vector<Batch>& batches) {
  Graph graph;
  Builder b(graph);
  const Id hidden = decoder_hidden(b, model.config, build);
  model.adapt(graph);
  MeasuringProgram program(std::move(graph), {hidden}, model, build);
  program.run_prologue();
  std::vector<std::vector<std::byte>> states;
  for (const Batch& batch : batches) {
    program.run(batch);
    const View view = program.view(hidden);
    states.emplace_back(view.data, view.data + view.bytes());
  }
  return states;
}

MeanLoss measure(const MeasuredModel& model, const DecoderBuild& build, const QuantPlan& plan,
                 const EnabledLayers& enabled, const std::vector<Batch>& batches,
                 const std::vector<std::vector<std::byte>>& reference) {
  Graph graph;
  Builder b(graph);
  LossInputs inputs{};
  inputs.x_TC = decoder_hidden(b, model.config, build);
  inputs.w_VC = decoder_head(b, model.config, build);
  inputs.targets_T = b.input(kTargets, {build.tokens()}, DType::i32);
  inputs.inv_tokens = b.input(kInvTokens, {1}, DType::f32);
  inputs.teacher_x_TC = b.input(kReference, {build.tokens(), model.config.hidden}, model.dtype);
  inputs.teacher_w_VC = inputs.w_VC;
  const Id sums =
      head_loss(b, inputs, {.cross_entropy = 1.0f, .kl = 1.0f, .temperature = 1.0f}).sums;
  model.adapt(graph, plan, enabled);
  insert_quantizers(graph, plan, enabled);
  MeasuringProgram program(std::move(graph), {sums}, model, build);
  program.run_prologue();
  MeanLoss mean;
  double tokens = 0.0;
  for (size_t i = 0; i < batches.size(); ++i) {
    const View states = model.store.get(kReference);
    std::memcpy(states.data, reference[i].data(), reference[i].size());
    program.run(batches[i]);
    const float* sum = program.view(sums).as<float>();
    mean.cross_entropy += double(sum[0]);
    mean.kl += double(sum[1]);
    tokens += double(sum[2]);
  }
  if (tokens == 0.0)
    refuse("sensitivity: none of the calibration tokens counts for the loss; give other text");
  mean.cross_entropy /= tokens;
  mean.kl /= tokens;
  return mean;
}

}  // namespace

std::vector<LayerSensitivity> measure_sensitivity(const MeasuredModel& model,
                                                  const QuantPlan& whole_plan,
                                                  const std::vector<Batch>& batches) {
  QuantPlan plan = whole_plan;
  for (const char* path : {kEmbeddingPath, kHeadPath}) plan.linears.erase(path);
  std::set<int64_t> layers;
  for (const auto& [path, quant] : plan.linears) layers.insert(layer_of(path));
  for (const auto& [path, grid] : plan.kv_cache) layers.insert(layer_of(path));
  if (layers.empty()) return {};
  const DecoderBuild build = build_for(model, batches);
  const auto reference = reference_states(model, build, batches);
  const MeanLoss exact = measure(model, build, plan, {}, batches, reference);
  std::vector<LayerSensitivity> result;
  log::info("sensitivity: each layer quantized alone, loss {:.5f} without", exact.cross_entropy);
  log::info("  layer          KL   loss +");
  for (const int64_t layer : layers) {
    const MeanLoss loss = measure(model, build, plan, {int(layer)}, batches, reference);
    result.push_back({layer, loss.kl, loss.cross_entropy - exact.cross_entropy});
    log::info("  {:5}  {:.4e}  {:+.5f}", layer, loss.kl, result.back().loss_increase);
  }
  model.store.erase(kReference);
  return result;
}

std::vector<int64_t> least_damaging_first(const std::vector<LayerSensitivity>& layers) {
  std::vector<LayerSensitivity> sorted = layers;
  std::stable_sort(
      sorted.begin(), sorted.end(),
      [](const LayerSensitivity& a, const LayerSensitivity& b) { return a.kl < b.kl; });
  std::vector<int64_t> order;
  for (const LayerSensitivity& layer : sorted) order.push_back(layer.layer);
  return order;
}

}  // namespace qat
