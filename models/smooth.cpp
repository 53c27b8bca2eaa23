#include "models/smooth.h"

#include <algorithm>
#include <map>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ptq/smoothing.h"
#include "models/calibrate.h"
#include "models/smooth_search.h"

namespace qat {

namespace {

bool is_planned(const SmoothPair& pair, const QuantPlan& plan) {
  return std::any_of(pair.linears.begin(), pair.linears.end(),
                     [&](const std::string& path) { return plan.linears.contains(path); });
}

std::map<std::string, std::vector<float>> input_amax(const MeasuredModel& model,
                                                     const std::vector<SmoothPair>& pairs,
                                                     const std::vector<Batch>& batches) {
  std::vector<std::string> first_linears;
  for (const SmoothPair& pair : pairs) first_linears.push_back(pair.linears[0]);
  std::map<std::string, std::vector<float>> result;
  for (ColumnAmax& column : observe_column_amax(model, first_linears, batches))
    result[column.input.path] = std::move(column.amax);
  return result;
}

std::vector<float> weight_amax(const SmoothPair& pair, const ModelConfig& config,
                               const Store& store) {
  std::vector<float> amax(size_t(linear_shape(config, pair.linears[0]).cols()), 0.0f);
  for (const std::string& path : pair.linears) widen_column_amax(store.get(path + ".weight"), amax);
  return amax;
}

// Row of v_proj whose output reaches a column of o_proj's input.
int64_t value_row(const ModelConfig& config, int64_t column) {
  const int64_t head = column / config.head_dim;
  return head / (config.heads / config.kv_heads) * config.head_dim + column % config.head_dim;
}

// Columns that one value row feeds get the largest of their maxima, and so one factor.
void share_by_value_row(const ModelConfig& config, std::vector<float>& amax) {
  std::vector<float> largest(size_t(config.kv_width()), 0.0f);
  for (int64_t c = 0; c < int64_t(amax.size()); ++c) {
    float& row = largest[size_t(value_row(config, c))];
    row = std::max(row, amax[size_t(c)]);
  }
  for (int64_t c = 0; c < int64_t(amax.size()); ++c)
    amax[size_t(c)] = largest[size_t(value_row(config, c))];
}

// Factors by row of the linear that makes the input.
std::vector<float> row_factors(const SmoothPair& pair, std::span<const float> factors,
                               const ModelConfig& config) {
  if (pair.fold != SmoothFold::v_proj) return {factors.begin(), factors.end()};
  std::vector<float> rows(size_t(config.kv_width()));
  for (size_t c = 0; c < factors.size(); ++c)
    rows[size_t(value_row(config, int64_t(c)))] = factors[c];
  return rows;
}

SmoothCandidate candidate(const MeasuredModel& model, const SmoothPair& pair,
                          std::vector<float> inputs) {
  SmoothCandidate result{pair, std::move(inputs), weight_amax(pair, model.config, model.store)};
  if (pair.fold == SmoothFold::v_proj) {
    share_by_value_row(model.config, result.input_amax);
    share_by_value_row(model.config, result.weight_amax);
  }
  return result;
}

void report(const std::vector<SmoothedPair>& result, const SmoothOptions& options) {
  if (options.mode == SmoothMode::fixed) {
    log::info("SmoothQuant: {} inputs folded with alpha {}", result.size(), options.alpha);
    return;
  }
  std::map<std::string, int> count;
  double before = 0.0, after = 0.0;
  for (const SmoothedPair& pair : result) {
    const std::string alpha = pair.alpha ? fmt::format("{:.1f}", *pair.alpha) : "none";
    log::debug("SmoothQuant: {} alpha {}, output error {:.3e} -> {:.3e}", pair.from, alpha,
               pair.error_before, pair.error_after);
    ++count[alpha];
    before += pair.error_before;
    after += pair.error_after;
  }
  std::string chosen;
  for (const auto& [alpha, times] : count)
    chosen += fmt::format("{}{} of alpha {}", chosen.empty() ? "" : ", ", times, alpha);
  log::info("SmoothQuant: {} inputs searched ({}); output error {:.3e} -> {:.3e}", result.size(),
            chosen, before / double(result.size()), after / double(result.size()));
}

}  // namespace

std::vector<SmoothFold> every_fold() {
  return {SmoothFold::norm, SmoothFold::up_proj, SmoothFold::v_proj};
}

std::vector<SmoothPair> smooth_pairs(const ModelConfig& config,
                                     const std::vector<SmoothFold>& folds) {
  const auto wanted = [&](SmoothFold fold) {
    return std::find(folds.begin(), folds.end(), fold) != folds.end();
  };
  std::vector<SmoothPair> pairs;
  const auto each_layer = [&](auto add) {
    for (int64_t i = 0; i < config.layers; ++i) add(fmt::format("model.layers.{}.", i));
  };
  each_layer([&](const std::string& layer) {
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    if (wanted(SmoothFold::v_proj))
      pairs.push_back({SmoothFold::v_proj, attention + "v_proj", {attention + "o_proj"}});
    if (wanted(SmoothFold::up_proj))
      pairs.push_back({SmoothFold::up_proj, mlp + "up_proj", {mlp + "down_proj"}});
  });
  if (!wanted(SmoothFold::norm)) return pairs;
  each_layer([&](const std::string& layer) {
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    pairs.push_back({SmoothFold::norm,
                     layer + "input_layernorm",
                     {attention + "q_proj", attention + "k_proj", attention + "v_proj"}});
    pairs.push_back({SmoothFold::norm,
                     layer + "post_attention_layernorm",
                     {mlp + "gate_proj", mlp + "up_proj"}});
  });
  return pairs;
}

std::vector<int64_t> shared_factors(const SmoothPair& pair, const ModelConfig& config) {
  std::vector<int64_t> rows;
  if (pair.fold != SmoothFold::v_proj) return rows;
  for (int64_t column = 0; column < config.q_width(); ++column)
    rows.push_back(value_row(config, column));
  return rows;
}

void fold(const SmoothPair& pair, std::span<const float> factors, const ModelConfig& config,
          Store& store) {
  if (pair.fold == SmoothFold::norm) {
    divide_columns(store.get(pair.from + ".weight"), factors);
  } else {
    const std::vector<float> rows = row_factors(pair, factors, config);
    divide_rows(store.get(pair.from + ".weight"), rows);
    if (const View bias = store.find(pair.from + ".bias")) divide_columns(bias, rows);
  }
  for (const std::string& path : pair.linears)
    multiply_columns(store.get(path + ".weight"), factors);
}

std::vector<SmoothedPair> smooth(const MeasuredModel& model, const QuantPlan& plan,
                                 const std::vector<Batch>& batches, const SmoothOptions& options) {
  std::vector<SmoothPair> pairs = smooth_pairs(model.config, options.folds);
  std::erase_if(pairs, [&](const SmoothPair& pair) { return !is_planned(pair, plan); });
  if (options.mode == SmoothMode::off || pairs.empty()) return {};
  if (options.mode == SmoothMode::fixed && !(options.alpha >= 0.0f && options.alpha <= 1.0f))
    refuse("quantize.smooth.alpha: {} is not between 0 and 1", options.alpha);

  // Rows first: what the columns of v_proj and up_proj hold is known only after them. No fold
  // changes what another one's input is.
  const auto amax = input_amax(model, pairs, batches);
  const auto norms = std::find_if(pairs.begin(), pairs.end(), [](const SmoothPair& pair) {
    return pair.fold == SmoothFold::norm;
  });
  std::vector<SmoothedPair> result;
  const auto run = [&](auto begin, auto end) {
    std::vector<SmoothCandidate> candidates;
    for (auto pair = begin; pair != end; ++pair)
      candidates.push_back(candidate(model, *pair, amax.at(pair->linears[0])));
    std::vector<SmoothedPair> done;
    if (options.mode == SmoothMode::search)
      done = search_alphas(model, plan, batches, candidates, options.search_tokens);
    else
      for (const SmoothCandidate& c : candidates) done.push_back({c.pair.from, options.alpha});
    for (size_t i = 0; i < done.size(); ++i)
      if (done[i].alpha)
        fold(candidates[i].pair,
             smoothing_factors(candidates[i].input_amax, candidates[i].weight_amax, *done[i].alpha),
             model.config, model.store);
    result.insert(result.end(), done.begin(), done.end());
  };
  run(pairs.begin(), norms);
  run(norms, pairs.end());
  report(result, options);
  return result;
}

}  // namespace qat
