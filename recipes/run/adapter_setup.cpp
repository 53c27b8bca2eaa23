#include "recipes/run/adapter_setup.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/core/error.h"
#include "models/decoder.h"
#include "models/export/peft.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/recipe/words.h"

namespace qat {

namespace {

bool targets(const std::string& pattern, const std::string& path) {
  return pattern == "all-linear" || matches(pattern, path);
}

std::map<std::string, LinearAdapter> fresh_adapters(const recipe::AdapterOptions& options,
                                                    const ModelConfig& config) {
  LinearAdapter adapter;
  adapter.rank = options.rank;
  adapter.alpha = options.alpha;
  if (options.use_rslora) adapter.scaling = AdapterScaling::root_of_rank;
  if (options.kind == recipe::AdapterChoice::dora) adapter.kind = AdapterKind::dora;
  const std::vector<std::string> paths = decoder_linears(config);
  std::map<std::string, LinearAdapter> linears;
  for (const std::string& pattern : options.target_modules) {
    bool any = false;
    for (const std::string& path : paths) {
      if (!targets(pattern, path)) continue;
      linears[path] = adapter;
      any = true;
    }
    if (!any)
      refuse(
          "adapter.target_modules: '{}' matches no matrix of the model; name them by the end of "
          "their path (q_proj, mlp.down_proj), by a glob (model.layers.0.*), or write all-linear",
          pattern);
  }
  for (const auto& [path, unused] : linears) {
    const Shape w = linear_shape(config, path);
    if (adapter.rank > std::min(w[0], w[1]))
      refuse("adapter.rank: {} is more than {} [{}, {}] has rows or columns; lower it",
             adapter.rank, path, w[0], w[1]);
  }
  return linears;
}

std::map<std::string, LinearAdapter> given_adapters(const recipe::AdapterOptions& options,
                                                    const ModelConfig& config) {
  const auto linears = read_peft_plan(options.from.path, config);
  const bool dora = linears.begin()->second.kind == AdapterKind::dora;
  if (dora != (options.kind == recipe::AdapterChoice::dora))
    refuse("adapter.kind: {} holds a {} adapter, the recipe says {}; write adapter.kind: {}",
           options.from.path, dora ? "dora" : "lora", recipe::word_of(options.kind),
           dora ? "dora" : "lora");
  return linears;
}

}  // namespace

std::map<std::string, PackedSpec> packed_base(recipe::BaseChoice base, bool double_quant,
                                              const ModelConfig& config) {
  PackedSpec spec;
  switch (base) {
    case recipe::BaseChoice::none:
    case recipe::BaseChoice::bf16:
      return {};
    case recipe::BaseChoice::int8:
      spec = {PackedType::int8, false};
      break;
    case recipe::BaseChoice::nf4:
      spec = {PackedType::nf4, double_quant};
      break;
    case recipe::BaseChoice::fp4:
      spec = {PackedType::fp4, double_quant};
      break;
  }
  std::map<std::string, PackedSpec> packed;
  for (const std::string& path : decoder_linears(config)) packed[path] = spec;
  return packed;
}

AdapterPlan make_adapter_plan(const recipe::Recipe& recipe, const ModelConfig& config) {
  const recipe::AdapterOptions& options = recipe.adapter;
  AdapterPlan plan;
  if (!options.any()) return plan;
  plan.linears = options.from.word == recipe::AdapterStart::none ? fresh_adapters(options, config)
                                                                 : given_adapters(options, config);
  plan.packed = packed_base(options.base, options.double_quant, config);
  plan.dtype = options.dtype;
  plan.dropout = float(options.dropout);
  plan.seed = recipe.seed;
  return plan;
}

std::string describe(const AdapterPlan& plan, recipe::BaseChoice base) {
  const LinearAdapter& first = plan.linears.begin()->second;
  return fmt::format("{} of rank {} on {} linears, {} base",
                     first.kind == AdapterKind::dora ? "dora" : "lora", first.rank,
                     plan.linears.size(),
                     base == recipe::BaseChoice::none ? "fp32" : recipe::word_of(base));
}

}  // namespace qat
