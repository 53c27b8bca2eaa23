// Tells a rank that hangs from one that is slow. It looks at the signs of all ranks of a machine
// again and again; what it says is why the run must end.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/dist/board.h"

namespace qat {

/// Time in which this process itself ran. One that was stopped, or whose machine slept, has missed
/// the signs of the others: that time is not held against them. The wall clock is not asked.
class RanClock {
 public:
  using Moment = std::chrono::steady_clock::time_point;
  RanClock(Moment start, double most_seconds) : last_(start), most_(most_seconds) {}
  /// Seconds that it ran; a longer pause between two calls counts as `most_seconds`.
  double at(Moment now);

 private:
  Moment last_;
  double most_, ran_ = 0;
};

/// One look at a rank's sign.
struct Seen {
  int rank = 0;
  uint64_t beats = 0, progress = 0, collectives = 0;
  int64_t step = 0;
  RunStage stage = RunStage::start;
  Collective waiting = Collective::none;
};

struct WatchdogOptions {
  double seconds = 0;  ///< without progress, within a step; 0 = never
  /// Loading, preparing, saving, evaluating and exporting may take this many times as long.
  double longer = 10;
  int ranks = 1;  ///< of the run, which may be more than are seen
};

class Watchdog {
 public:
  explicit Watchdog(WatchdogOptions options) : options_(options) {}
  /// `now` in seconds, as a RanClock counts. Why the run must end, once it must: the rank that
  /// lags, its step and what it does there.
  std::optional<std::string> look(std::span<const Seen> seen, double now);

 private:
  struct Known {
    uint64_t beats = 0, progress = 0;
    double beat_at = 0, progress_at = 0;
  };
  double limit(std::span<const Seen> seen) const;

  WatchdogOptions options_;
  std::vector<Known> known_;
};

}  // namespace qat
