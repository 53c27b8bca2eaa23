// Signs of life: a little memory of each rank that the other ranks of the same machine read. It
// does not depend on MPI, which says nothing of a rank that hangs.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/dist/communicator.h"

namespace qat {

/// Where a rank is in its run. Steps are alike; what surrounds them may take hours.
enum class RunStage : int32_t { start, step, save, evaluate, finish };
const char* stage_name(RunStage stage);

/// What a rank waits for the others in.
enum class Collective : int32_t {
  none,
  all_reduce,
  all_reduce_max,
  reduce_scatter,
  all_gather,
  broadcast,
  barrier
};
const char* collective_name(Collective collective);

/// One rank's memory. Only that rank writes the first part.
struct LifeSign {
  std::atomic<uint64_t> beats{0};     ///< of a thread that runs as long as the process does
  std::atomic<uint64_t> progress{0};  ///< counts steps, stages and finished collectives
  std::atomic<int64_t> step{0};
  std::atomic<RunStage> stage{RunStage::start};
  std::atomic<Collective> waiting{Collective::none};
  std::atomic<uint64_t> collectives{0};  ///< entered
  std::atomic<uint64_t> failure{0};      ///< of a rank that fails: a hash of why
  std::atomic<uint32_t> leaving{0};      ///< it ends as soon as all others are leaving too

  // Of the first rank that is seen, for all who see it.
  std::atomic<int32_t> reporter{0};  ///< 1 + the rank that tells why the run ends
  std::atomic<int32_t> code{0};      ///< 1 + the exit code, once it is told

  static_assert(std::atomic<uint64_t>::is_always_lock_free);
};

class Board {
 public:
  /// Collective. Ranks of other machines are not seen; one process sees itself.
  explicit Board(Communicator& ranks);
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  LifeSign& mine() { return *signs_[size_t(mine_)]; }
  /// Who tells why a run ends agrees here.
  LifeSign& common() { return *signs_.front(); }
  const std::vector<LifeSign*>& signs() const { return signs_; }
  const std::vector<int>& ranks() const { return ranks_; }  ///< whose signs they are

 private:
  void add(int rank, void* memory);

  std::vector<LifeSign*> signs_;
  std::vector<int> ranks_;
  int mine_ = 0;
};

}  // namespace qat
