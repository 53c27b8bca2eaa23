// Signs of life: a little memory of each rank that the other ranks of the same machine read. It
// does not depend on MPI, which says nothing of a rank that hangs.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/dist/communicator.h"

namespace qat {

/// Where a rank is in its run. Steps are alike; what surrounds them may take hours.
enum class Phase : int32_t { start, data, compute, update, step_end, save, evaluate, finish };
const char* phase_name(Phase phase);

/// What a rank waits for the others in.
enum class Operation : int32_t {
  none,
  all_reduce,
  all_reduce_max,
  reduce_scatter,
  all_gather,
  broadcast,
  barrier
};
const char* operation_name(Operation operation);

/// One rank's memory. Only that rank writes the first part.
struct Sign {
  std::atomic<uint64_t> beats{0};     ///< of a thread that runs as long as the process does
  std::atomic<uint64_t> progress{0};  ///< counts steps, phases and finished collectives
  std::atomic<int64_t> step{0};
  std::atomic<Phase> phase{Phase::start};
  std::atomic<Operation> waiting{Operation::none};
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

  Sign& mine() { return *signs_[size_t(mine_)]; }
  /// Who tells why a run ends agrees here.
  Sign& common() { return *signs_.front(); }
  const std::vector<Sign*>& signs() const { return signs_; }
  const std::vector<int>& ranks() const { return ranks_; }  ///< whose signs they are

 private:
  void add(int rank, void* memory);

  std::vector<Sign*> signs_;
  std::vector<int> ranks_;
  int mine_ = 0;
};

}  // namespace qat
