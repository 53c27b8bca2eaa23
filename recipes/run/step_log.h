// What a training run says of its steps: metrics.jsonl, TensorBoard events and the progress line.
#pragma once

#include <optional>
#include <string>

#include "engine/train/metrics.h"
#include "engine/train/progress.h"
#include "engine/train/tensorboard.h"
#include "engine/train/trainer.h"

namespace qat {

/// Where the steps are written and what of them does not change.
struct StepLogOptions {
  std::string directory;     ///< of the run
  std::string metrics;       ///< path of metrics.jsonl
  std::string recipe;        ///< resolved, as YAML
  int64_t steps = 0;         ///< of the whole run
  int64_t every = 1;         ///< steps between plain progress lines
  double step_tokens = 0;    ///< batch * sequence
  double flops = 0;          ///< of a token
  double peak = 0;           ///< measured, FLOP/s
  int layers = 0;            ///< of the decoder
  bool has_teacher = false;  ///< its KL is worth a place on the line
};

class StepLog {
 public:
  /// finished: steps that are done already; what the files hold of later ones is taken back.
  StepLog(StepLogOptions options, int64_t finished);

  void write(const StepResult& step);
  /// The run went back to `finished` steps.
  void rewind(int64_t finished);
  /// Clears the line for something else to be printed.
  void clear() { line_.clear(); }
  /// Makes what was written durable.
  void sync() { metrics_->sync(); }

 private:
  Progress progress_of(const StepResult& step, double tokens_per_second) const;

  StepLogOptions options_;
  std::optional<MetricsFile> metrics_;
  std::optional<EventFile> events_;
  ProgressLine line_;
};

}  // namespace qat
