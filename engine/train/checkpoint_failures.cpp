// Counting failed saves; see the header.
#include "engine/train/checkpoint_failures.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/train/run_directory.h"

namespace qat {

void SaveFailures::note(const SaveResult& result) {
  switch (result.status) {
    case SaveResult::Status::committed:
      in_a_row_ = 0;
      last_committed_ = result.path;
      log::info("saved {} ({} in {:.2f} s{})", result.path, bytes_text(result.bytes),
                result.seconds,
                result.paused < 0
                    ? ""
                    : fmt::format(" beside training, which paused {:.3f} s", result.paused));
      return;
    case SaveResult::Status::not_finite:
      log::error("{} not saved: {}", result.path, result.message);
      return;
    case SaveResult::Status::cannot_write:
      ++in_a_row_;
      if (in_a_row_ >= most_) stop(result);
      log::error(
          "NOT SAVED ({} of {} before this run stops): {}; training goes on, the next try is "
          "at the next interval",
          in_a_row_, most_, result.message);
      return;
  }
}

void SaveFailures::require(const SaveResult& result) {
  if (result.status == SaveResult::Status::cannot_write) {
    ++in_a_row_;
    stop(result);
  }
  note(result);
}

std::string SaveFailures::last_whole() const {
  if (!last_committed_.empty()) return last_committed_;
  const FoundCheckpoint found = find_checkpoint(directory_);
  return found.checkpoint ? found.checkpoint->path() : "none";
}

void SaveFailures::stop(const SaveResult& result) const {
  throw Error(
      Exit::cannot_write,
      fmt::format("{} save{} in a row failed: {}; the last whole checkpoint is {}: make room "
                  "and run again",
                  in_a_row_, in_a_row_ == 1 ? "" : "s", result.message, last_whole()));
}

}  // namespace qat
