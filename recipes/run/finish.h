// The end of a run: exports with their proof, and result.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/runtime/store.h"
#include "models/graphs.h"
#include "models/tokenizer/tokenizer.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

struct FinishInputs {
  const recipe::Recipe& recipe;
  const ModelConfig& config;
  std::string config_json;  ///< Hugging Face's
  std::string source;       ///< path of the source model; empty for one from scratch
  const Tokenizer& tokenizer;
  std::string chat_template;  ///< in place of the tokenizer's own; empty: its own
  const QuantPlan& plan;
  const AdapterPlan& adapters;
  Store& store;
  const KernelTable& kernels;
  Stream& stream;
  nlohmann::json results;  ///< evaluations: source, ptq, qat
  int64_t skipped_steps = 0;
  nlohmann::json facts;  ///< memory, program, machine: further fields of result.json
};

/// Exports, verifies, prints the table and writes the report, and result.json last: its presence
/// says the run is complete. Throws Error(not_verified) when an export does not read back as
/// trained.
void finish_run(const FinishInputs& inputs);

/// The table of perplexities as lines for people.
std::vector<std::string> result_table(const nlohmann::json& results);

}  // namespace qat
