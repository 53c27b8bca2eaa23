#include "recipes/run/auto_bits.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ptq/width_choice.h"
#include "engine/quant/stored_bits.h"
#include "models/decoder.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/quant_summary.h"

namespace qat {

using nlohmann::json;

namespace {

int64_t size_of_linear(const ModelConfig& config, const std::string& path, const QuantPlan& plan) {
  return stored_bits(linear_shape(config, path), *plan.linears.at(path).weight);
}

int64_t size_of_unit(const ModelConfig& config, const WidthUnit& unit, const QuantPlan& plan) {
  int64_t size = 0;
  for (const std::string& path : unit.linears) size += size_of_linear(config, path, plan);
  return size;
}

// "self_attn.q_proj" of "model.layers.3.self_attn.q_proj".
std::string within_layer(const std::string& path) {
  const std::string prefix = fmt::format("model.layers.{}.", layer_of(path));
  return path.substr(prefix.size());
}

// "q_proj, k_proj, v_proj".
std::string name_of(const WidthUnit& unit) {
  std::vector<std::string> names;
  for (const std::string& path : unit.linears) names.push_back(path.substr(path.rfind('.') + 1));
  return fmt::format("{}", fmt::join(names, ", "));
}

// Whether some candidate gives the matrix another grid than others do: not where an override or a
// fallback decides.
bool is_open(const std::map<int, QuantPlan>& plans, const std::string& path) {
  const auto weight = [&](const QuantPlan& plan) {
    const auto found = plan.linears.find(path);
    return found == plan.linears.end() ? std::nullopt : found->second.weight;
  };
  const auto first = weight(plans.begin()->second);
  return first && std::any_of(plans.begin(), plans.end(), [&](const auto& candidate) {
           return weight(candidate.second) != first;
         });
}

std::vector<WidthUnit> open_units(const ModelConfig& config,
                                  const std::map<int, QuantPlan>& plans) {
  std::vector<WidthUnit> units;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (const std::vector<const char*>& fused : std::vector<std::vector<const char*>>{
             {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
             {"self_attn.o_proj"},
             {"mlp.gate_proj", "mlp.up_proj"},
             {"mlp.down_proj"}}) {
      WidthUnit unit{layer, {}};
      for (const char* name : fused) {
        const std::string path = fmt::format("model.layers.{}.{}", layer, name);
        if (is_open(plans, path)) unit.linears.push_back(path);
      }
      if (!unit.linears.empty()) units.push_back(std::move(unit));
    }
  return units;
}

struct Size {
  int64_t bits = 0, weights = 0;
};

Size size_of_plan(const ModelConfig& config, const QuantPlan& plan) {
  Size size;
  for (const auto& [path, quant] : plan.linears) {
    if (!quant.weight || is_table(path)) continue;
    size.bits += size_of_linear(config, path, plan);
    size.weights += linear_shape(config, path).count();
  }
  return size;
}

double bits_a_weight(const ModelConfig& config, const QuantPlan& plan) {
  const Size size = size_of_plan(config, plan);
  return double(size.bits) / double(size.weights);
}

// One layer's multiplications, those of the head aside, in weights.
double layer_weights(const ModelConfig& config) {
  double weights = 0.0;
  for (const std::string& path : decoder_linears(config))
    if (layer_of(path) == 0) weights += double(linear_shape(config, path).count());
  return weights;
}

void announce(const BitChoices& choices, const ModelConfig& config,
              const std::vector<Batch>& batches) {
  int64_t sequences = 0;
  for (const Batch& batch : batches) sequences += batch.rows;
  const double tokens = double(sequences * batches[0].sequence);
  const double head = double(config.vocab) * double(config.hidden);
  double flops = 0.0;
  for (const WidthUnit& unit : choices.units)
    flops += 2.0 * tokens * double(choices.plans.size()) *
             (double(config.layers - unit.layer) * layer_weights(config) + 2.0 * head);
  log::info(
      "auto_bits: {} matrices or groups of them at {} widths, each alone, on {} sequences of {} "
      "tokens: {} measurements of the layers from there on and of both heads, {:.1f} TFLOP",
      choices.units.size(), choices.plans.size(), sequences, batches[0].sequence,
      choices.units.size() * choices.plans.size(), flops / 1e12);
}

void log_table(const BitChoices& choices, const std::vector<KlByWidth>& kl,
               const std::vector<int>& chosen) {
  std::string head = fmt::format("  {:>5}  {:<24}", "layer", "matrices");
  for (const auto& [bits, plan] : choices.plans) head += fmt::format("  KL {} bits", bits);
  log::info("{}  chosen", head);
  for (size_t i = 0; i < choices.units.size(); ++i) {
    std::string line =
        fmt::format("  {:>5}  {:<24}", choices.units[i].layer, name_of(choices.units[i]));
    for (const auto& [bits, value] : kl[i]) line += fmt::format("  {:9.3e}", value);
    log::info("{}  {:>6}", line, chosen[i]);
  }
}

}  // namespace

BitChoices bit_choices(const recipe::QuantizeOptions& quantize, const ModelConfig& config) {
  BitChoices choices;
  for (const int64_t bits : quantize.auto_bits.candidates) {
    recipe::QuantizeOptions one = quantize;
    one.auto_bits = {};
    one.weights.bits = bits;
    choices.plans[int(bits)] = make_quant_setup(one, config).plan;
  }
  choices.units = open_units(config, choices.plans);
  if (choices.units.empty())
    refuse(
        "quantize.auto_bits.budget: no matrix has a choice: quantize.overrides or the preset's "
        "fallback decide all of them; remove it");
  const QuantPlan& narrowest = choices.plans.begin()->second;
  const Size least = size_of_plan(config, narrowest);
  choices.weights = least.weights;
  const double budget = *quantize.auto_bits.budget;
  choices.budget = int64_t(budget * double(least.weights));
  if (least.bits > choices.budget)
    refuse(
        "quantize.auto_bits.budget: {} bits a weight, but {} bits for each take {:.3f} with their "
        "scales; raise it, or name a narrower candidate",
        budget, choices.plans.begin()->first, bits_a_weight(config, narrowest));
  return choices;
}

ChosenBits choose_bits(const recipe::AutoBits& options, const BitChoices& choices,
                       const MeasuredModel& model, const std::vector<Batch>& batches,
                       const std::function<bool()>& stop) {
  const ModelConfig& config = model.config;
  announce(choices, config, batches);
  const std::vector<KlByWidth> kl =
      measure_widths(model, choices.units, choices.plans, batches, stop);
  if (kl.empty()) return {};

  // What is decided already takes its share of the budget.
  const QuantPlan& narrowest = choices.plans.begin()->second;
  int64_t open_budget = choices.budget - size_of_plan(config, narrowest).bits;
  std::vector<std::vector<WidthOption>> harms;
  for (size_t i = 0; i < choices.units.size(); ++i) {
    open_budget += size_of_unit(config, choices.units[i], narrowest);
    std::vector<WidthOption>& of_unit = harms.emplace_back();
    for (const auto& [bits, plan] : choices.plans)
      of_unit.push_back({size_of_unit(config, choices.units[i], plan), kl[i].at(bits)});
  }
  const std::vector<size_t> picked = least_harm(harms, open_budget);

  ChosenBits result;
  std::vector<int> chosen;
  json units = json::array();
  double predicted = 0.0;
  for (size_t i = 0; i < choices.units.size(); ++i) {
    const WidthUnit& unit = choices.units[i];
    const int bits = std::next(choices.plans.begin(), int64_t(picked[i]))->first;
    chosen.push_back(bits);
    predicted += kl[i].at(bits);
    json record = {{"layer", unit.layer}, {"linears", json::array()}, {"bits", bits}};
    for (const std::string& path : unit.linears) {
      result.widths[path] = bits;
      record["linears"].push_back(within_layer(path));
    }
    for (const auto& [width, value] : kl[i]) record["kl"][std::to_string(width)] = value;
    units.push_back(std::move(record));
  }
  log_table(choices, kl, chosen);

  QuantPlan mixed = narrowest;
  set_widths(choices, result.widths, "", mixed);
  std::vector<QuantPlan> plans = {mixed};
  for (const auto& [bits, plan] : choices.plans) plans.push_back(plan);
  const std::vector<double> together = measure_weights(model, plans, batches);
  log::info(
      "auto_bits: {:.3f} bits a weight of {} allowed; KL {:.4e} of all together ({:.4e} as "
      "the sum of each alone)",
      bits_a_weight(config, mixed), *options.budget, together[0], predicted);
  json uniform = json::object();
  for (size_t i = 1; const auto& [bits, plan] : choices.plans) {
    log::info("  for comparison, {} bits for each: {:.3f} bits a weight, KL {:.4e}", bits,
              bits_a_weight(config, plan), together[i]);
    uniform[std::to_string(bits)] = {{"bits", bits_a_weight(config, plan)}, {"kl", together[i++]}};
  }
  result.record = {{"budget", *options.budget},     {"bits", bits_a_weight(config, mixed)},
                   {"predicted_kl", predicted},     {"kl", together[0]},
                   {"uniform", std::move(uniform)}, {"units", std::move(units)}};
  return result;
}

void set_widths(const BitChoices& choices, const BitWidths& widths, const std::string& from,
                QuantPlan& plan) {
  size_t open = 0;
  for (const WidthUnit& unit : choices.units)
    for (const std::string& path : unit.linears) {
      ++open;
      const auto width = widths.find(path);
      const auto candidate =
          width == widths.end() ? choices.plans.end() : choices.plans.find(width->second);
      if (candidate == choices.plans.end())
        refuse(
            "{}: its bits of {} are none of this recipe's quantize.auto_bits.candidates; put the "
            "recipe back as it was, or start over with --resume never",
            from, path);
      plan.linears.at(path).weight = candidate->second.linears.at(path).weight;
    }
  if (open != widths.size())
    refuse(
        "{}: bits were chosen for {} matrices, this recipe leaves {} open; put the recipe back as "
        "it was, or start over with --resume never",
        from, widths.size(), open);
}

BitWidths saved_widths(const Checkpoint& checkpoint) {
  const auto found = checkpoint.state().find(kBitWidths);
  if (found == checkpoint.state().end())
    refuse(
        "{}: was saved by a run without quantize.auto_bits; remove the key, or start over with "
        "--resume never",
        checkpoint.path());
  return found->get<BitWidths>();
}

QuantPlan plan_of_run(const recipe::Recipe& recipe, const ModelConfig& config,
                      const Checkpoint& checkpoint) {
  QuantPlan plan = make_quant_setup(recipe.quantize, config).plan;
  if (recipe.quantize.auto_bits.any())
    set_widths(bit_choices(recipe.quantize, config), saved_widths(checkpoint), checkpoint.path(),
               plan);
  return plan;
}

}  // namespace qat
