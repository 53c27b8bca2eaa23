// What a run does about saves that fail: it trains on with a loud warning, and stops after some.
#pragma once

#include <string>

#include "engine/train/checkpoint.h"

namespace qat {

class SaveFailures {
 public:
  /// most: `checkpoint.max_failed_saves`, failures in a row that end the run.
  SaveFailures(std::string directory, int most) : directory_(std::move(directory)), most_(most) {}

  /// Logs a save, good or bad. Throws Error(cannot_write) naming the last whole checkpoint once
  /// `most` saves in a row could not be written. A save refused for NaN or Inf is logged and not
  /// counted: the trainer's rule for divergence decides about it.
  void note(const SaveResult& result);
  /// For the last save of a run, which has no next interval: one failure is enough.
  void require(const SaveResult& result);

  int in_a_row() const { return in_a_row_; }
  /// Directory of the last whole checkpoint; "none" when there is none.
  std::string last_whole() const;

 private:
  [[noreturn]] void stop(const SaveResult& result) const;

  std::string directory_;
  int most_;
  int in_a_row_ = 0;
  std::string last_committed_;
};

}  // namespace qat
