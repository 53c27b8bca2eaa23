// What a run measures of its model beside perplexity, each stage the same way: the source, the
// quantized model before training, the trained one.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/source.h"
#include "recipes/run/evaluation.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// A stage of the model in the run's Store.
struct StageModel {
  std::string stage;  ///< source, ptq, qat, trained
  const ModelConfig& config;
  const QuantPlan& plan;
  const AdapterPlan& adapters;
  Store& store;
  const KernelTable& kernels;
  Stream& stream;
  const Tokenizer& tokenizer;
};

class RunEvaluation {
 public:
  /// Reads the tasks' rows, so that bad ones are refused before anything is trained.
  explicit RunEvaluation(const recipe::Recipe& recipe);

  /// Adds tasks, generation and samples to results[...][stage]. What was computed before a kill is
  /// taken from evaluation.jsonl in the run directory.
  void measure(const StageModel& model, nlohmann::json& results);
  /// Adds results["agreement"][stage]: what the stage computes on data.eval beside the source,
  /// which is loaded a second time for it.
  void compare(const StageModel& model, const ModelSource& source, const TokenizeOptions& tokenize,
               nlohmann::json& results);

 private:
  EvaluatedModel evaluated(const StageModel& model) const;
  void tasks(const StageModel& model, nlohmann::json& results);
  void generation(const StageModel& model, nlohmann::json& results);
  void samples(const StageModel& model, nlohmann::json& results);

  struct Task {
    TaskData data;
    TaskOptions options;
  };
  const recipe::Recipe& recipe_;
  ResultsFile file_;
  std::vector<Task> tasks_;
};

/// How the evaluations of a recipe run a stage.
ForwardSpec evaluation_spec(const recipe::Recipe& recipe, const StageModel& model);

/// The table of tasks as lines for people: a column a stage.
std::vector<std::string> task_table(const nlohmann::json& results);

}  // namespace qat
