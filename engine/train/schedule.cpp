// Learning-rate schedules; see the header.
#include "engine/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "engine/core/error.h"

namespace qat {
namespace {

const char* name_of(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::constant:
      return "constant";
    case ScheduleKind::linear:
      return "linear";
    case ScheduleKind::cosine:
      return "cosine";
    case ScheduleKind::wsd:
      return "wsd";
  }
  return "";
}

}  // namespace

Schedule::Schedule(ScheduleOptions options) : options_(std::move(options)) {
  const ScheduleOptions& o = options_;
  if (!(o.learning_rate > 0.0) || !std::isfinite(o.learning_rate)) {
    refuse("schedule: learning_rate is {}; expected a positive number", o.learning_rate);
  }
  if (!(o.final >= 0.0 && o.final <= 1.0)) {
    refuse("schedule: final is {}; expected 0 to 1, a fraction of the learning rate", o.final);
  }
  if (std::min({o.steps, o.warmup, o.decay, o.rewarm}) < 0) {
    refuse("schedule: steps {}, warmup {}, decay {} and rewarm {} cannot be negative", o.steps,
           o.warmup, o.decay, o.rewarm);
  }
  if (!std::is_sorted(o.rewarm_at.begin(), o.rewarm_at.end())) {
    internal_error("schedule: stages out of order");
  }
  last_step_ = std::max<int64_t>(o.steps - 1, 0);
  peak_step_ = std::max<int64_t>(o.warmup - 1, 0);
  decay_begin_ = peak_step_;
  if (o.kind == ScheduleKind::wsd) {
    const int64_t length = o.decay > 0 ? o.decay : std::max<int64_t>(o.steps / 5, 1);
    decay_begin_ = std::max(peak_step_, last_step_ - length);
  }
}

double Schedule::at(int64_t step) const {
  step = std::clamp<int64_t>(step, 0, last_step_);
  const double rate =
      step < peak_step_ ? double(step + 1) / double(options_.warmup) : decayed(step);
  // Inside the first warm-up the lower of the two holds.
  return options_.learning_rate *
         (step < peak_step_ ? std::min(rate, rewarmed(step)) : rate * rewarmed(step));
}

double Schedule::decayed(int64_t step) const {
  if (options_.kind == ScheduleKind::constant || step <= decay_begin_) return 1.0;
  const double left = double(last_step_ - step) / double(last_step_ - decay_begin_);
  const double height = options_.kind == ScheduleKind::cosine
                            ? 0.5 * (1.0 - std::cos(std::numbers::pi * left))
                            : left;
  return options_.final + (1.0 - options_.final) * height;
}

double Schedule::rewarmed(int64_t step) const {
  if (options_.rewarm == 0) return 1.0;
  const auto& stages = options_.rewarm_at;
  const auto after = std::upper_bound(stages.begin(), stages.end(), step);
  if (after == stages.begin()) return 1.0;
  return std::min(1.0, double(step - *std::prev(after) + 1) / double(options_.rewarm));
}

std::string Schedule::describe() const {
  const ScheduleOptions& o = options_;
  std::string text = fmt::format("{}: {:g}", name_of(o.kind), o.learning_rate);
  if (o.warmup > 1) text += fmt::format(" after {} steps of warm-up", o.warmup);
  if (o.kind == ScheduleKind::wsd) text += fmt::format(", down from step {}", decay_begin_);
  text += fmt::format(", {:g} at step {}", at(last_step_), last_step_);
  if (o.rewarm > 1 && !o.rewarm_at.empty()) {
    text += fmt::format(", {} re-warms of {} steps", o.rewarm_at.size(), o.rewarm);
  }
  return text;
}

}  // namespace qat
