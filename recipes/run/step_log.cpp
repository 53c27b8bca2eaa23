#include "recipes/run/step_log.h"

#include <cstdio>
#include <utility>

namespace qat {

StepLog::StepLog(StepLogOptions options, int64_t finished)
    : options_(std::move(options)), line_(stderr, options_.every) {
  rewind(finished);
  events_->text(finished + 1, "recipe", "```yaml\n" + options_.recipe + "```");
}

void StepLog::rewind(int64_t finished) {
  metrics_.emplace(options_.metrics, finished);
  events_.emplace(options_.directory, finished + 1);
}

Progress StepLog::progress_of(const StepResult& step, double tokens_per_second) const {
  Progress progress;
  progress.step = step.step;
  progress.total = options_.steps;
  progress.loss = step.loss;
  if (options_.has_teacher) progress.kl = step.kl;
  progress.learning_rate = step.learning_rate;
  progress.enabled_layers = int(step.enabled_layers);
  progress.layers = options_.layers;
  progress.tokens_per_second = tokens_per_second;
  progress.percent_of_peak = 100.0 * options_.flops * tokens_per_second / options_.peak;
  progress.step_seconds = step.seconds;
  return progress;
}

void StepLog::write(const StepResult& step) {
  const double tokens_per_second = options_.step_tokens / step.seconds;
  metrics_->write(MetricsRecord(step.step)
                      .add("loss", step.loss)
                      .add("cross_entropy", step.cross_entropy)
                      .add("kl", step.kl)
                      .add("lr", step.learning_rate)
                      .add("grad_norm", step.grad_norm)
                      .add("tokens", step.tokens)
                      .add("tokens_per_s", tokens_per_second)
                      .add("enabled_layers", step.enabled_layers)
                      .add("skipped", int(step.skipped))
                      .add("spike", step.spike.value_or(0.0)));
  const EventFile::Scalar scalars[] = {{"loss", float(step.loss)},
                                       {"cross_entropy", float(step.cross_entropy)},
                                       {"kl", float(step.kl)},
                                       {"learning_rate", float(step.learning_rate)},
                                       {"gradient_norm", float(step.grad_norm)},
                                       {"tokens_per_s", float(tokens_per_second)},
                                       {"enabled_layers", float(step.enabled_layers)}};
  events_->scalars(step.step, scalars);
  line_.update(progress_of(step, tokens_per_second));
}

}  // namespace qat
