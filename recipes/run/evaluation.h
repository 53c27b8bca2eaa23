// Measurements of a model as result.json and --json keep them and as lines for people: perplexity,
// tasks, agreement with a reference model, what generation looks like.
#pragma once

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/compare.h"
#include "models/evaluate.h"
#include "models/evaluation/stability.h"
#include "models/evaluation/tasks.h"

namespace qat {

/// {"perplexity", "low", "high", "nll", "tokens", "windows", "window_nll", "positions": [{"from",
/// "to", "perplexity"}]}; low and high are the middle 95% over resampled windows.
nlohmann::ordered_json json_of(const Perplexity& perplexity);
/// {"kl", "kl_low", "kl_high", "same_likeliest", ..., "positions": [{"from", "to", "kl"}]}.
nlohmann::ordered_json json_of(const Agreement& agreement);
/// {"rows", "left_out", "metrics": {NAME: {"value", "low", "high"}}, "right": "0110...", "cells"}.
nlohmann::ordered_json json_of(const TaskResult& result);
nlohmann::ordered_json json_of(const Flips& flips);
/// {"prompts", "repeated", ..., "texts": [{"prompt", "text", "ids"}]}.
nlohmann::ordered_json json_of(const Stability& stability, const std::vector<GeneratedText>& texts);

/// What json_of wrote.
TaskResult task_from(const std::string& name, const nlohmann::json& json);
std::vector<GeneratedText> texts_from(const nlohmann::json& json);

/// "arc_easy   acc 0.4120 (0.3680 to 0.4560)  acc_norm ...  500 rows".
std::string line_of(const TaskResult& result);
std::string line_of(const Stability& stability);
std::string line_of(const Agreement& agreement);

/// "arc_easy  120/500  42 left": rewrites itself on a terminal, says nothing elsewhere.
class CountLine {
 public:
  CountLine(std::FILE* out, std::string label);
  ~CountLine();
  CountLine(const CountLine&) = delete;
  CountLine& operator=(const CountLine&) = delete;
  void update(int64_t done, int64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::FILE* out_;
  std::string label_;
  bool terminal_, drawn_ = false;
  Clock::time_point start_ = Clock::now(), last_{};
};

/// Runs a task with a progress line on stderr.
TaskResult run_task(const EvaluatedModel& model, TaskData data, const TaskOptions& options,
                    ResultsFile& results, const std::string& label);
/// Generates with a progress line on stderr.
std::vector<GeneratedText> run_generation(const EvaluatedModel& model,
                                          const std::vector<std::string>& prompts, int64_t tokens,
                                          ResultsFile& results, const std::string& label);

/// Where tasks are read, and how much of them.
struct TaskSource {
  std::string directory;
  int64_t limit = 0;  ///< rows of each task, from its start; 0: all
  int64_t shots = 5;  ///< solved examples before each question of gsm8k
  /// Where the examples come from; empty: the last rows of the task's own file, which are then not
  /// asked.
  std::string examples;
};
TaskData open_task(const TaskSpec& spec, const TaskSource& source, TaskOptions& options);

}  // namespace qat
