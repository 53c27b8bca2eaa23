#include "recipes/run/run_facts.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <string_view>

#include "engine/core/version.h"
#include "engine/quant/stored_bits.h"
#include "models/decoder.h"
#include "models/source.h"

namespace qat {

using nlohmann::json;

namespace {

constexpr double kStoredBits = 16;

json side(const char* name, const Distribution& d) {
  return {{"name", name}, {"low", d.low}, {"high", d.high}, {"counts", d.counts}};
}

// What matters of a few sequences is their shape.
constexpr size_t kShownBatches = 2;
std::vector<Batch> few(const std::vector<Batch>& batches) {
  return {batches.begin(), batches.begin() + int64_t(std::min(kShownBatches, batches.size()))};
}

}  // namespace

json size_json(const ModelConfig& config, const QuantPlan& plan) {
  double weights = 0, quantized_weights = 0, bits = 0, quantized_bits = 0;
  for (const SourceTensor& tensor : expected_tensors(config)) {
    const double count = double(tensor.shape.count());
    weights += count;
    const auto found = plan.linears.find(module_of_weight(tensor.name));
    if (found == plan.linears.end() || !found->second.weight) {
      bits += count * kStoredBits;
      continue;
    }
    const double taken = double(stored_bits(tensor.shape, *found->second.weight));
    bits += taken;
    quantized_bits += taken;
    quantized_weights += count;
  }
  json size = {{"source_bytes", weights * kStoredBits / 8},
               {"deployed_bytes", bits / 8},
               {"bits_per_weight", bits / weights}};
  if (quantized_weights > 0) {
    size["quantized_bytes"] = quantized_bits / 8;
    size["bits_per_quantized_weight"] = quantized_bits / quantized_weights;
  }
  return size;
}

json memory_json(const TrainingMemory* memory) {
  json result = json::object();
  if (memory) {
    for (const auto& [category, bytes] : memory->bytes)
      if (bytes > 0) result["planned"][name_of(category)] = bytes;
    if (memory->snapshot > 0) result["planned"]["checkpoint snapshot"] = memory->snapshot;
    result["planned_total"] = memory->total();
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  constexpr int64_t kKibi = 1024;
  result["peak"] = int64_t(usage.ru_maxrss) * kKibi;
  return result;
}

json program_json(const std::string& command) {
  json program = {{"name", kProgram}, {"version", kVersion}, {"compiler", "g++ " __VERSION__}};
  if (!command.empty()) program["command"] = command;
  return program;
}

json sensitivity_json(const std::vector<LayerSensitivity>& layers) {
  json result = json::array();
  for (const LayerSensitivity& layer : layers)
    result.push_back(
        {{"layer", layer.layer}, {"kl", layer.kl}, {"loss_increase", layer.loss_increase}});
  return result;
}

std::string command_text(int argc, char** argv) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,@%+";
  std::string command;
  for (int i = 0; i < argc; ++i) {
    const std::string argument = argv[i];
    if (i > 0) command += ' ';
    if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) {
      command += argument;
      continue;
    }
    command += '\'';
    for (const char c : argument) command += c == '\'' ? std::string("'\\''") : std::string(1, c);
    command += '\'';
  }
  return command;
}

void ShownDistributions::before(const MeasuredModel& model, const std::vector<Batch>& batches) {
  const std::vector<std::string> paths = shown_linears(model.config);
  weights_ = weight_distributions(model, paths);
  inputs_ = input_distributions(model, paths, few(batches));
}

json ShownDistributions::after(const MeasuredModel& model, const QuantPlan& plan,
                               const std::vector<Batch>& batches, bool smoothed) const {
  json result = json::array();
  const auto add = [&](const char* what, const Distribution& before,
                       const std::vector<Distribution>& after, const json& clip) {
    json shown = {{"name", before.path},
                  {"what", what},
                  {"sides", {side(smoothed ? "before smoothing" : "values", before)}}};
    for (const Distribution& d : after)
      if (d.path == before.path && smoothed) shown["sides"].push_back(side("after smoothing", d));
    if (!clip.is_null()) shown["clip"] = clip;
    result.push_back(std::move(shown));
  };
  const std::vector<std::string> paths = shown_linears(model.config);
  const auto weights = smoothed ? weight_distributions(model, paths) : std::vector<Distribution>();
  const auto inputs =
      smoothed ? input_distributions(model, paths, few(batches)) : std::vector<Distribution>();
  for (const Distribution& d : weights_) add("Its weights.", d, weights, {});
  for (const Distribution& d : inputs_) {
    json clip;
    const auto found = plan.linears.find(d.path);
    if (found != plan.linears.end() && found->second.static_activation) {
      const QuantSpec& spec = *found->second.activation;
      const double scale = double(model.store.get(activation_scale_name(d.path)).as<float>()[0]);
      const View zero_point = model.store.find(activation_zero_name(d.path));
      const double zero = zero_point ? double(zero_point.as<float>()[0]) : 0.0;
      clip = {{"low", (spec.qmin() - zero) * scale}, {"high", (spec.qmax() - zero) * scale}};
    }
    add(clip.is_null() ? "Its inputs on calibration text."
                       : "Its inputs on calibration text, and where the calibrated grid ends.",
        d, inputs, clip);
  }
  return result;
}

}  // namespace qat
