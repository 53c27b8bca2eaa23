// Learning-rate schedules as pure functions of the step, so that a resume has nothing to restore.
//
// Steps are 0 .. steps - 1. Warm-up is counted inside them: it rises linearly and reaches the full
// rate at step warmup - 1 (warmup 0 and 1 both begin at the full rate). The decay starts there and
// reaches final * learning_rate exactly at the last step. A run cut shorter than its warm-up only
// rises.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

enum class ScheduleKind : uint8_t {
  constant,
  linear,  ///< a straight line down
  cosine,  ///< half a cosine wave down
  wsd      ///< warm-up, stable, then a straight line down over the last `decay` steps
};

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  double learning_rate = 2e-5;  ///< the peak
  int64_t steps = 0;            ///< of the whole run
  int64_t warmup = 0;           ///< steps
  double final = 0.1;  ///< rate at the last step, as a fraction of the peak; not for constant
  int64_t decay = 0;   ///< wsd only: steps of the last part; 0 = a fifth of all
  /// At each of these steps (increasing; the stages of a QuantSchedule) the rate drops and rises
  /// again over `rewarm` steps to what the schedule says. A rise that has not ended at the last
  /// step ends it below `final`.
  std::vector<int64_t> rewarm_at = {};
  int64_t rewarm = 0;
};

/// A learning-rate schedule; checked when made.
class Schedule {
 public:
  /// Refuses what cannot hold: a warm-up that leaves no step to decay in, fractions outside [0, 1],
  /// a rate that is not positive, unordered stages.
  explicit Schedule(ScheduleOptions options);

  /// Learning rate of `step`; beyond the last step it stays what it was there.
  double at(int64_t step) const;
  /// One line: "cosine: 2e-05 after 20 steps of warm-up, 2e-06 at step 299".
  std::string describe() const;
  const ScheduleOptions& options() const { return options_; }

 private:
  double decayed(int64_t step) const;
  double rewarmed(int64_t step) const;

  ScheduleOptions options_;
  int64_t peak_step_, decay_begin_, last_step_;
};

}  // namespace qat
