#include "models/sensitivity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ops/ops.h"
#include "engine/passes/passes.h"
#include "models/graphs.h"
#include "models/layer_stream.h"

namespace qat {

namespace {

constexpr const char* kReference = "sensitivity.reference";
constexpr const char* kHidden = "sensitivity.hidden";

struct MeanLoss {
  double cross_entropy = 0.0, kl = 0.0;
  int64_t tokens = 0;
};

// What quantized models are compared with: the unquantized model's final hidden states of each
// batch, as they lie in memory.
struct Reference {
  DecoderBuild build;
  std::vector<std::vector<std::byte>> states;
};

Reference reference_of(const MeasuredModel& model, const std::vector<Batch>& batches) {
  const DecoderBuild build = build_for(model, batches);
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
  return {build, std::move(states)};
}

// Of the whole model, or of the rest from the layer that `from` is at.
MeanLoss measure(const MeasuredModel& model, const Reference& reference, const QuantPlan& plan,
                 const EnabledLayers& enabled, const std::vector<Batch>& batches,
                 const LayerStream* from = nullptr) {
  const DecoderBuild& build = reference.build;
  Graph graph;
  Builder b(graph);
  LossInputs inputs{};
  inputs.x_TC = from ? decoder_hidden_from(
                           b, model.config, build,
                           b.input(kHidden, {build.tokens(), model.config.hidden}, build.dtype),
                           from->layer())
                     : decoder_hidden(b, model.config, build);
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
    std::memcpy(states.data, reference.states[i].data(), reference.states[i].size());
    if (from)
      std::memcpy(model.store.get(kHidden).data, from->states(i).data(), from->states(i).size());
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

// The grid of a plan's weights as if nothing had been prepared for it yet.
LinearQuant weight_alone(const LinearQuant& quant) {
  LinearQuant alone;
  alone.weight = quant.weight;
  return alone;
}

QuantPlan weights_alone(const QuantPlan& plan) {
  QuantPlan alone;
  for (const auto& [path, quant] : plan.linears)
    if (quant.weight && !is_table(path)) alone.linears[path] = weight_alone(quant);
  return alone;
}

double finite_kl(double kl) {
  if (!std::isfinite(kl))
    refuse("auto_bits: the model does not compute numbers on the calibration text (KL {})", kl);
  return kl;
}

// A line now and then while much is measured.
class MeasuringLog {
 public:
  explicit MeasuringLog(size_t measurements) : measurements_(measurements) {}
  void done(int64_t layer) {
    ++done_;
    const auto now = Clock::now();
    if (now - said_ < std::chrono::seconds(10) || done_ == measurements_) return;
    said_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    log::info("  layer {}: {} of {} measured in {:.0f} s", layer, done_, measurements_, seconds);
  }

 private:
  using Clock = std::chrono::steady_clock;
  size_t measurements_, done_ = 0;
  Clock::time_point start_ = Clock::now(), said_ = start_;
};

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
  const Reference reference = reference_of(model, batches);
  const MeanLoss exact = measure(model, reference, plan, {}, batches);
  std::vector<LayerSensitivity> result;
  log::info("sensitivity: each layer quantized alone, loss {:.5f} without", exact.cross_entropy);
  log::info("  layer          KL   loss +");
  for (const int64_t layer : layers) {
    const MeanLoss loss = measure(model, reference, plan, {int(layer)}, batches);
    result.push_back({layer, loss.kl, loss.cross_entropy - exact.cross_entropy});
    log::info("  {:5}  {:.4e}  {:+.5f}", layer, loss.kl, result.back().loss_increase);
  }
  model.store.erase(kReference);
  return result;
}

std::vector<KlByWidth> measure_widths(const MeasuredModel& model,
                                      const std::vector<WidthUnit>& units,
                                      const std::map<int, QuantPlan>& plans,
                                      const std::vector<Batch>& batches,
                                      const std::function<bool()>& stop) {
  const Reference reference = reference_of(model, batches);
  LayerStream stream(model, batches, {});
  MeasuringLog progress(units.size() * plans.size());
  const auto forget = [&] {
    for (const char* name : {kReference, kHidden}) model.store.erase(name);
  };
  std::vector<KlByWidth> result;
  for (const WidthUnit& unit : units) {
    while (stream.layer() < unit.layer) stream.advance({});
    KlByWidth& kl = result.emplace_back();
    for (const auto& [bits, plan] : plans) {
      if (stop && stop()) {
        forget();
        return {};
      }
      QuantPlan alone;
      for (const std::string& path : unit.linears)
        alone.linears[path] = weight_alone(plan.linears.at(path));
      kl[bits] =
          finite_kl(measure(model, reference, alone, {int(unit.layer)}, batches, &stream).kl);
      progress.done(unit.layer);
    }
  }
  forget();
  return result;
}

std::vector<double> measure_weights(const MeasuredModel& model, const std::vector<QuantPlan>& plans,
                                    const std::vector<Batch>& batches) {
  const Reference reference = reference_of(model, batches);
  const EnabledLayers all = all_layers(model.config);
  std::vector<double> result;
  for (const QuantPlan& plan : plans)
    result.push_back(finite_kl(measure(model, reference, weights_alone(plan), all, batches).kl));
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
