#include "engine/dist/mpi/node_window.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>

#include "engine/core/error.h"
#include "engine/dist/mpi/session.h"

namespace qat {
namespace {

constexpr size_t kGateBytes = 4096;
constexpr size_t kLine = 64;
constexpr int kSpins = 2000;  // tens of microseconds: about what sleeping and waking costs

// MPI aligns to 8 bytes. Every process maps whole pages, so all find the same place.
std::byte* next_line(void* memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  return reinterpret_cast<std::byte*>((address + kLine - 1) / kLine * kLine);
}

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Not the private kind: the waiters are other processes.
void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
  ::syscall(SYS_futex, &word, FUTEX_WAIT, value, nullptr, nullptr, 0);
}
void wake_all(std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

// At the start of the first rank's memory.
struct NodeWindow::Gate {
  alignas(64) std::atomic<uint32_t> round{0};
  alignas(64) std::atomic<uint32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> sleepers{0};
  static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);
};

NodeWindow::NodeWindow(MPI_Comm node, size_t bytes, Wait wait)
    : spins_(wait == Wait::spin_first ? kSpins : 0) {
  int rank = 0;
  MPI_Comm_rank(node, &rank);
  MPI_Comm_size(node, &ranks_);
  // Each rank's part on pages of its own, which it touches first: they lie near its processor.
  MPI_Info info = MPI_INFO_NULL;
  MPI_Info_create(&info);
  MPI_Info_set(info, "alloc_shared_noncontig", "true");
  void* mine = nullptr;
  int code =
      MPI_Win_allocate_shared(MPI_Aint(bytes + kGateBytes + kLine), 1, info, node, &mine, &window_);
  MPI_Info_free(&info);
  int failed = code == MPI_SUCCESS ? 0 : 1, any_failed = 0;
  require(MPI_Allreduce(&failed, &any_failed, 1, MPI_INT, MPI_MAX, node), "MPI_Allreduce");
  if (any_failed)
    throw Error(Exit::rank_failed, fmt::format("the {} ranks of this node cannot share {} KiB each",
                                               ranks_, (bytes + kGateBytes) / 1024));
  std::memset(mine, 0, bytes + kGateBytes + kLine);
  for (int r = 0; r < ranks_; ++r) {
    MPI_Aint size = 0;
    int unit = 0;
    void* base = nullptr;
    require(MPI_Win_shared_query(window_, r, &size, &unit, &base), "MPI_Win_shared_query");
    parts_.push_back(next_line(base) + kGateBytes);
  }
  gate_ = reinterpret_cast<Gate*>(parts_[0] - kGateBytes);
  if (rank == 0) new (gate_) Gate;
  require(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), "MPI_Win_lock_all");
  require(MPI_Barrier(node), "MPI_Barrier");
}

NodeWindow::~NodeWindow() {
  if (std::uncaught_exceptions() > 0) return;  // freeing waits for the others
  MPI_Win_unlock_all(window_);
  MPI_Win_free(&window_);
}

void NodeWindow::barrier() {
  if (ranks_ == 1) return;
  const uint32_t round = gate_->round.load(std::memory_order_acquire);
  if (gate_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(ranks_)) {
    gate_->arrived.store(0, std::memory_order_relaxed);
    gate_->round.store(round + 1);
    if (gate_->sleepers.load() > 0) wake_all(gate_->round);
    return;
  }
  for (int spin = 0; spin < spins_; ++spin) {
    if (gate_->round.load(std::memory_order_acquire) != round) return;
    pause_briefly();
  }
  gate_->sleepers.fetch_add(1);
  while (gate_->round.load() == round) sleep_while(gate_->round, round);
  gate_->sleepers.fetch_sub(1);
}

}  // namespace qat
