#include "models/smooth.h"

#include <map>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ptq/smoothing.h"
#include "models/calibrate.h"
#include "models/smooth_search.h"

namespace qat {

namespace {

// The pairs with a planned linear.
std::vector<NormPair> planned_pairs(const ModelConfig& config, const QuantPlan& plan) {
  std::vector<NormPair> pairs;
  for (NormPair& pair : norm_pairs(config)) {
    bool planned = false;
    for (const std::string& path : pair.linears) planned = planned || plan.linears.count(path) > 0;
    if (planned) pairs.push_back(std::move(pair));
  }
  return pairs;
}

std::map<std::string, std::vector<float>> input_amax(const MeasuredModel& model,
                                                     const std::vector<NormPair>& pairs,
                                                     const std::vector<Batch>& batches) {
  std::vector<std::string> first_linears;
  for (const NormPair& pair : pairs) first_linears.push_back(pair.linears[0]);
  std::map<std::string, std::vector<float>> result;
  for (ColumnAmax& column : observe_column_amax(model, first_linears, batches))
    result[column.input.path] = std::move(column.amax);
  return result;
}

std::vector<float> weight_amax(const NormPair& pair, const ModelConfig& config,
                               const Store& store) {
  std::vector<float> amax(size_t(config.hidden), 0.0f);
  for (const std::string& path : pair.linears) widen_column_amax(store.get(path + ".weight"), amax);
  return amax;
}

void report(const std::vector<SmoothedPair>& result, const SmoothOptions& options) {
  if (options.mode == SmoothMode::fixed) {
    log::info("SmoothQuant: {} norms folded with alpha {}", result.size(), options.alpha);
    return;
  }
  std::map<std::string, int> count;
  double before = 0.0, after = 0.0;
  for (const SmoothedPair& pair : result) {
    const std::string alpha = pair.alpha ? fmt::format("{:.1f}", *pair.alpha) : "none";
    log::debug("SmoothQuant: {} alpha {}, output error {:.3e} -> {:.3e}", pair.norm, alpha,
               pair.error_before, pair.error_after);
    ++count[alpha];
    before += pair.error_before;
    after += pair.error_after;
  }
  std::string chosen;
  for (const auto& [alpha, times] : count)
    chosen += fmt::format("{}{} of alpha {}", chosen.empty() ? "" : ", ", times, alpha);
  log::info("SmoothQuant: {} norms searched ({}); output error {:.3e} -> {:.3e}", result.size(),
            chosen, before / double(result.size()), after / double(result.size()));
}

}  // namespace

std::vector<NormPair> norm_pairs(const ModelConfig& config) {
  std::vector<NormPair> pairs;
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    pairs.push_back(
        {layer + "input_layernorm",
         {layer + "self_attn.q_proj", layer + "self_attn.k_proj", layer + "self_attn.v_proj"}});
    pairs.push_back(
        {layer + "post_attention_layernorm", {layer + "mlp.gate_proj", layer + "mlp.up_proj"}});
  }
  return pairs;
}

void fold(const NormPair& pair, std::span<const float> factors, Store& store) {
  divide_columns(store.get(pair.norm + ".weight"), factors);
  for (const std::string& path : pair.linears)
    multiply_columns(store.get(path + ".weight"), factors);
}

std::vector<SmoothedPair> smooth(const MeasuredModel& model, const QuantPlan& plan,
                                 const std::vector<Batch>& batches, const SmoothOptions& options) {
  const std::vector<NormPair> pairs = planned_pairs(model.config, plan);
  if (options.mode == SmoothMode::off || pairs.empty()) return {};
  if (options.mode == SmoothMode::fixed && !(options.alpha >= 0.0f && options.alpha <= 1.0f))
    refuse("quantize.smooth.alpha: {} is not between 0 and 1", options.alpha);

  const auto amax = input_amax(model, pairs, batches);
  std::vector<SmoothCandidate> candidates;
  for (const NormPair& pair : pairs)
    candidates.push_back(
        {pair, amax.at(pair.linears[0]), weight_amax(pair, model.config, model.store)});
  std::vector<SmoothedPair> result;
  if (options.mode == SmoothMode::search)
    result = search_alphas(model, plan, batches, candidates, options.search_tokens);
  else
    for (const SmoothCandidate& c : candidates) result.push_back({c.pair.norm, options.alpha});
  for (size_t i = 0; i < result.size(); ++i)
    if (result[i].alpha)
      fold(pairs[i],
           smoothing_factors(candidates[i].input_amax, candidates[i].weight_amax, *result[i].alpha),
           model.store);
  report(result, options);
  return result;
}

}  // namespace qat
