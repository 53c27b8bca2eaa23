// A directory that appears whole or not at all: filled under `<name>.tmp-<pid>`, then renamed.
#pragma once

#include <string>

namespace qat {

class StagedDirectory {
 public:
  /// Creates the directory aside. Its parent must exist. What already lies at `target` may be an
  /// earlier export (a directory with config.json, or of .gguf files alone) and is replaced by
  /// commit(); anything else is refused.
  explicit StagedDirectory(std::string target);
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;
  /// Removes what was not committed.
  ~StagedDirectory();

  const std::string& path() const { return staging_; }
  /// Syncs and renames; what lay there before is gone only after the new one is in its place.
  void commit();
  /// Keeps what was written under `<target>.not-verified` (replacing an older one); returns that
  /// path.
  std::string keep_as_not_verified();

 private:
  std::string target_, staging_;
  bool done_ = false;
};

}  // namespace qat
