// Memory that the ranks of one node share, and a barrier in it. Ranks that wait sleep in the kernel
// after a short spin: they may outnumber the processors, and the slow rank needs its own.
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstddef>
#include <vector>

namespace qat {

class NodeWindow {
 public:
  enum class Wait { spin_first, sleep_at_once };

  /// `bytes` for each rank of `node`; collective. Throws Error(rank_failed) on every rank where one
  /// cannot have its memory.
  NodeWindow(MPI_Comm node, size_t bytes, Wait wait);
  ~NodeWindow();
  NodeWindow(const NodeWindow&) = delete;
  NodeWindow& operator=(const NodeWindow&) = delete;

  /// The memory of a rank, which every rank reads and writes.
  std::byte* of(int rank) const { return parts_[size_t(rank)]; }
  /// Returns when every rank has come; what they wrote before is seen after.
  void barrier();

 private:
  struct Gate;

  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<std::byte*> parts_;
  Gate* gate_ = nullptr;
  int ranks_ = 1;
  int spins_ = 0;
};

}  // namespace qat
