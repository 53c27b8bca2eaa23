// One live run per output directory. The file `run.lock` names its owner (host, process, boot,
// start time); flock guards it on one machine, a heartbeat on its modification time between
// machines.
#pragma once

#include <chrono>
#include <memory>
#include <string>

namespace qat {

/// A short name no other run has: UTC time and random digits, fit for file names.
std::string new_run_id();

struct RunLockOptions {
  /// How often the owner touches the lock file.
  std::chrono::milliseconds heartbeat{5000};
  /// How long a start watches the heartbeat of an owner it cannot see (another host) before it
  /// takes that owner for dead. Longer than network file systems cache modification times.
  std::chrono::milliseconds patience{75000};
};

/// Holds an output directory from construction to destruction.
class RunLock {
 public:
  /// Throws Error(locked) naming the live owner, Error(cannot_write) when the file cannot be made.
  /// The lock of a dead owner is taken over with a warning.
  RunLock(const std::string& directory, const std::string& run_id, RunLockOptions options = {});
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Throws Error(locked) if another run has taken the directory over (this one was taken for
  /// dead). Asked before every commit, so that two writers never commit the same step.
  void require_held() const;

 private:
  struct Held;
  std::unique_ptr<Held> held_;
};

}  // namespace qat
