// Checkpoints: named tensors and a JSON state, committed whole or not at all.
//
//   checkpoints/step-N/rank-0000-of-0002.bin  32 bytes, a JSON header, tensors (64-byte aligned)
//   checkpoints/step-N/manifest.json          size and XXH3-128 of every file, and of itself
//   checkpoints/step-N.tmp-<run>/             being written; the rename to step-N is the commit
//   checkpoints/step-N.bad-<run>/             was damaged under the name of a newer commit
//
// Each rank writes its rows of the large tensors, with their place in the whole, so that any number
// of ranks reads what any other wrote; rank 0 adds the rest and the state.
// A save may go on beside training: its tensors are copied, and written from the copy by a thread.
// There is no pointer to the latest: the highest step whose manifest and files verify is the
// latest. Nothing here follows a symbolic link. Order is by step, never by time.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/dist/communicator.h"
#include "engine/dist/partition.h"
#include "kernels/view.h"

namespace qat {

class BackgroundThread;
class RunLock;
class Snapshot;

/// Whether a tensor may hold NaN or Inf; a checkpoint with one that may not is never committed.
enum class Finite : uint8_t {
  required,  ///< weights, moments, scales
  optional   ///< observer ranges that start at infinity
};

/// One tensor to save, or one that was loaded. f32, bf16 and f16 are searched for NaN and Inf.
struct CheckpointTensor {
  std::string name;
  ConstView view;
  Finite finite = Finite::required;
  int64_t first_row = 0;  ///< of a tensor of which the view holds some rows
  int64_t all_rows = -1;  ///< of that tensor; -1: the view is all of it
};

/// When a save beside training copies its tensors.
enum class SnapshotCopy : uint8_t {
  beside_training,  ///< until they are about to change: where host and kernels share memory
  at_once
};

struct CheckpointOptions {
  std::string run_id;             ///< new_run_id(); part of the names aside
  int keep = 2;                   ///< whole checkpoints that stay; at least 2
  std::string program;            ///< version of this build, kept in the manifest
  const RunLock* lock = nullptr;  ///< asked before each commit, by rank 0
  Communicator* ranks = nullptr;  ///< that save together; null: this process alone
  SnapshotCopy copy = SnapshotCopy::beside_training;
};

struct SaveResult {
  enum class Status {
    committed,
    cannot_write,  ///< the disk's fault; what was written is removed, older checkpoints untouched
    not_finite     ///< a tensor holds NaN or Inf; nothing was committed
  };
  Status status = Status::committed;
  int64_t step = 0;
  std::string path;     ///< the checkpoint's directory
  std::string message;  ///< why not, naming the file or the tensor
  uint64_t bytes = 0;
  double seconds = 0;  ///< from the call that began it to the commit
  double paused = -1;  ///< of a save beside training: for how long that waited; -1: it was not one

  bool committed() const { return status == Status::committed; }
};

/// Saves the checkpoints of one run, at once or beside training: then begin() copies what it is
/// given, and a thread writes it. What that thread does not do are the agreements of the ranks,
/// between which all of them call advance(). Never are two saves on their way.
class CheckpointWriter {
 public:
  /// directory: the run's `checkpoints`, made at the first save. Refuses a symbolic link there.
  CheckpointWriter(std::string directory, CheckpointOptions options);
  /// Gives up a save that is on its way: it leaves what a kill would.
  ~CheckpointWriter();

  /// Writes, commits and verifies `step-<step>`, then prunes. Called by all ranks, each with its
  /// own tensors, and with the state by rank 0; each gets the same result: a failure of one is that
  /// of all. Throws Error(locked) if the lock was lost; every failure of the storage is in the
  /// result instead. None may be on its way.
  SaveResult save(int64_t step, const nlohmann::json& state,
                  std::span<const CheckpointTensor> tensors);

  /// Takes the memory of the copies now, so that no begin() has to: for these tensors, or as many
  /// bytes of others. Throws Error(refused).
  void reserve(std::span<const CheckpointTensor> tensors);
  /// Begins a save beside training, called as save() is. None may be on its way. The tensors may
  /// not change before wait_until_copied().
  void begin(int64_t step, const nlohmann::json& state, std::span<const CheckpointTensor> tensors);
  /// To be called before anything changes the tensors of the last begin().
  void wait_until_copied();
  /// The step of the save that is on its way, the same on all ranks; -1: none.
  int64_t on_its_way() const;
  /// Whether this rank's thread works on it.
  bool busy() const;
  /// Takes a save that is on its way a stage further: called by all ranks, while none is busy.
  /// Gives its result at its end, as save() does; does nothing while there is none on its way.
  std::optional<SaveResult> advance();
  /// Waits for the end of the save that is on its way, called by all ranks.
  SaveResult finish();

 private:
  bool leads() const { return options_.ranks == nullptr || options_.ranks->rank() == 0; }
  struct Part;
  struct Save;
  void attempt(Save& save);
  bool agree(Save& save) const;
  SaveResult end(Save& save);
  std::vector<Part> exchange_parts(const Part& mine) const;
  void prepare(Save& save);
  void write_own(Save& save);
  void commit(Save& save);
  void write_manifest(Save& save) const;
  void rename_to_final(const Save& save) const;
  void prune(int64_t newest);
  void prune_if_possible(int64_t newest);
  void go_on_in_background();

  std::string directory_;
  CheckpointOptions options_;
  std::set<int64_t> whole_;  ///< steps this process has verified
  std::atomic<bool> give_up_ = false;
  std::unique_ptr<Snapshot> snapshot_;
  std::unique_ptr<Save> save_;  ///< that is on its way beside training
  std::unique_ptr<BackgroundThread> thread_;
};

/// A verified checkpoint. The tensors lie in a mapping that lives as long as this object.
class Checkpoint {
 public:
  /// path: a `step-N` directory. Throws Error(refused) naming the file and what is wrong with it.
  static Checkpoint load(const std::string& path);

  const std::string& path() const { return path_; }
  int64_t step() const { return step_; }
  const std::string& run_id() const { return run_id_; }
  const std::string& program() const { return program_; }
  int world() const { return world_; }  ///< ranks that wrote it
  const nlohmann::json& state() const { return state_; }
  /// Every tensor with its whole shape; the view's data is null where several ranks wrote parts.
  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }
  /// One of them; null if there is none of that name.
  const CheckpointTensor* tensor(std::string_view name) const;
  /// All of a tensor, put together from its parts and kept where there are several; an empty view
  /// if there is none of that name.
  ConstView find(std::string_view name) const;
  /// Copies a tensor out. Throws Error(refused) if it is missing or has another shape or dtype.
  void read(std::string_view name, View into) const;
  /// Copies some of a tensor's rows out; likewise.
  void read_rows(std::string_view name, Rows rows, View into) const;

 private:
  struct Part {
    int64_t first_row;
    ConstView view;
  };
  Checkpoint() = default;
  void add_file(std::vector<CheckpointTensor> tensors);
  void join_parts();

  std::string path_, run_id_, program_;
  int64_t step_ = 0;
  int world_ = 1;
  nlohmann::json state_;
  std::vector<CheckpointTensor> tensors_;
  std::map<std::string, std::vector<Part>, std::less<>> parts_;  ///< sorted by row
  std::vector<std::shared_ptr<const void>> mappings_;
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> joined_;
};

struct SkippedCheckpoint {
  std::string path, reason;
};

struct FoundCheckpoint {
  std::optional<Checkpoint> checkpoint;    ///< the newest whole one
  std::vector<SkippedCheckpoint> skipped;  ///< newer ones that are not whole, newest first
};

/// Looks newest first; each one that is not whole costs one warning that names file and reason.
/// A directory that does not exist holds no checkpoint. Throws Error(refused) for a checkpoint in
/// a newer format than this program reads: taking an older one would silently lose work.
FoundCheckpoint find_checkpoint(const std::string& directory);

/// What a start does when there were checkpoints and none of them is whole.
enum class NoneWhole { refuse, start_over };

/// `resume: auto` (refuse) and `auto-or-scratch` (start_over): says which checkpoint it took.
std::optional<Checkpoint> resume_checkpoint(const std::string& directory, NoneWhole none_whole);

/// Moves checkpoints above `step` to `step-N.bad-<run>`: for a run that goes on from an older one
/// (or from scratch, step -1), so that no later start continues the line that was left.
void set_aside_newer_checkpoints(const std::string& directory, int64_t step,
                                 const std::string& run_id);

/// True if the directory holds any `step-N`, whole or not.
bool has_checkpoints(const std::string& directory);

/// Bytes on disk of a checkpoint with these tensors, its state aside.
uint64_t checkpoint_bytes(std::span<const CheckpointTensor> tensors);

}  // namespace qat
