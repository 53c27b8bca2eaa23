// The layout of a run's output directory, and the checks it must pass before anything is loaded.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qat {

/// Names in `out`. Holds no file open; the lock is RunLock's.
class RunDirectory {
 public:
  explicit RunDirectory(std::string path);

  const std::string& path() const { return path_; }
  std::string recipe() const { return path_ + "/recipe.yaml"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string result() const { return path_ + "/result.json"; }
  std::string exports() const { return path_ + "/export"; }
  std::string export_to(std::string_view format) const;

  /// Refuses a path that `out` must not be, before anything is made: empty, with a `~` or `$` that
  /// no shell expanded, too long, a file, an input itself, inside an input's folder, or around an
  /// input. inputs: the model, the teacher and the data files, as the recipe gives them.
  void check(std::span<const std::string> inputs) const;
  /// Makes the directory and its parents, then writes, syncs, renames and removes a probe file, in
  /// `checkpoints` too when that exists. Refuses (2) what cannot be written, naming path and
  /// reason.
  void prepare() const;

  /// The content of result.json with "complete": true, written whole or not at all. The last file
  /// of a run: what exists with it is never done again.
  void write_result(nlohmann::json result) const;
  /// The result of a run that finished; nothing if there is none or it is not complete.
  std::optional<nlohmann::json> complete_result() const;

 private:
  std::string path_;
};

/// Whether a file system has room for what is to come.
struct DiskSpace {
  uint64_t needed = 0, available = 0;
  bool enough() const { return available >= needed; }
};

/// Room for `keep` + 1 checkpoints, less those that are there and will be pruned.
/// directory: the run's `checkpoints`; it need not exist yet.
DiskSpace disk_need(const std::string& directory, uint64_t checkpoint_bytes, int keep);
/// Refuses (2) before step 1: "needs X, has Y".
void require_disk(const std::string& directory, uint64_t checkpoint_bytes, int keep);
/// "1.4 GB" for messages.
std::string bytes_text(uint64_t bytes);

}  // namespace qat
