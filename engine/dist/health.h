// How the ranks of a run see each other hang, lag and fail, and leave together. A run makes one of
// these, gives its communicator to all who communicate, and says now and then where it is.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/dist/board.h"
#include "engine/dist/communicator.h"

namespace qat {

class RunHealth {
 public:
  /// Collective. `say` writes the line that tells why a run ends; from any thread, once.
  RunHealth(std::unique_ptr<Communicator> ranks, std::function<void(const std::string&)> say);
  /// Waits for the others to have come this far, except while an exception is on its way.
  ~RunHealth();
  RunHealth(const RunHealth&) = delete;
  RunHealth& operator=(const RunHealth&) = delete;

  /// The ranks, with what each waits in told to the others.
  Communicator& ranks();

  /// From now on a rank without progress for `seconds` within a step, or for ten times as long
  /// around the steps, ends the run on every rank with 6. 0: never. Nothing to watch in one
  /// process.
  void watch(double seconds);
  /// Where this rank is; RunStage::step begins a step.
  void at(int64_t step, RunStage stage);
  /// Collective, at the end of a step, with what it took this rank in all. Warns of a rank whose
  /// own work, without waiting for others, took half as long again as another's for ten steps.
  void finish_step(int64_t step, double seconds);

  /// Ends the process for a failure of this rank, as every other rank will: the first to fail says
  /// "rank N: message" and gives the exit code, the others are silent. What all
  /// ranks find alike is said once, without a rank.
  [[noreturn]] void leave(int code, const std::string& message);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qat
