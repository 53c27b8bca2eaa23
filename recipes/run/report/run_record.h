// A run as its directory tells it: what a report is made of.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/evaluation/statistics.h"

namespace qat::report {

/// A line of metrics.jsonl; absent numbers are NaN.
struct Step {
  double step, loss, cross_entropy, kl, learning_rate, grad_norm, tokens, tokens_per_s,
      enabled_layers;
};

struct RunRecord {
  std::string path;
  nlohmann::json result;  ///< result.json
  std::vector<Step> steps;
  std::string recipe;  ///< recipe.yaml

  /// The run directory's own name.
  std::string name() const;
  /// result.evaluations[key], or an empty object.
  const nlohmann::json& evaluation(const char* key) const;
};

/// Reads metrics and recipe beside a result; files that are missing are empty.
RunRecord record_of(const std::string& directory, nlohmann::json result);
/// Refuses a directory without the result of a finished run.
RunRecord read_run(const std::string& directory);

/// What quantization cost on one text, and what training won back of it.
struct Recovery {
  std::string text;
  double source = 0;  ///< perplexities
  std::optional<double> ptq, qat;
  Interval source_interval, ptq_interval, qat_interval;
  /// Of qat / source, paired by window; low <= 1 <= high: the text does not tell the two apart.
  std::optional<Interval> qat_ratio;
  /// The same of ptq / source.
  std::optional<Interval> ptq_ratio;
  /// (ptq - qat) / (ptq - source), where quantization cost what the text can tell.
  std::optional<double> repaired;
  std::optional<Interval> repaired_interval;
};
/// One for each text that was measured.
std::vector<Recovery> recoveries(const RunRecord& run);

/// One sentence: what was done, what it cost, what came back.
std::string verdict(const RunRecord& run);

}  // namespace qat::report
