// What result.json and the report say of a run beside its measurements: sizes, memory, machine,
// program, distributions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/distributions.h"
#include "models/memory_plan.h"
#include "models/sensitivity.h"

namespace qat {

/// {"source_bytes", "deployed_bytes", "quantized_bytes", "bits_per_weight",
/// "bits_per_quantized_weight"} of the tensors: 16 bits a number that is not quantized, codes,
/// scales and zero points of those that are.
nlohmann::json size_json(const ModelConfig& config, const QuantPlan& plan);
/// {"planned": {CATEGORY: bytes}, "planned_total", "peak"}; `memory` may be null (nothing trained).
/// peak: the largest resident size of this process so far.
nlohmann::json memory_json(const TrainingMemory* memory);
/// {"name", "version", "compiler", "command"}.
nlohmann::json program_json(const std::string& command);
nlohmann::json sensitivity_json(const std::vector<LayerSensitivity>& layers);
/// The arguments of a command as a shell takes them.
std::string command_text(int argc, char** argv);

/// Histograms before and after preparation, for results["distributions"].
class ShownDistributions {
 public:
  void before(const MeasuredModel& model, const std::vector<Batch>& batches);
  /// Adds what came out; `plan` gives the ranges that static activations clip to.
  nlohmann::json after(const MeasuredModel& model, const QuantPlan& plan,
                       const std::vector<Batch>& batches, bool smoothed) const;

 private:
  std::vector<Distribution> weights_, inputs_;
};

}  // namespace qat
