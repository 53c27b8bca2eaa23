// When a run has to be over: before a step it cannot finish and save in time, it stops by itself.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace qat {

class TimeLimit {
 public:
  using Clock = std::chrono::steady_clock;

  /// No limit.
  TimeLimit() = default;
  /// `minutes` after `start` (0: none), or when `job_end` says (seconds since 1970, as Slurm gives
  /// them in SLURM_JOB_END_TIME; null or not a number: none), whichever comes first. The wall clock
  /// is read once, here: it may jump later.
  TimeLimit(double minutes, const char* job_end, Clock::time_point start = Clock::now());

  bool given() const { return end_.has_value(); }
  double seconds_left() const;
  /// Whether a step and a save after it would be over in time, with a quarter and two seconds to
  /// spare.
  bool leaves_room_for(double step_seconds, double save_seconds) const;

 private:
  std::optional<Clock::time_point> end_;
};

}  // namespace qat
