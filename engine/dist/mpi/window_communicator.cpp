// Collectives of the ranks of one node. Data moves in chunks through a slot that each rank has in
// shared memory. A chunk takes three turns, each ended by a barrier: ranks lay down what they have
// for others; each combines its part, in the order of the ranks; all pick up the results. The turns
// of neighbouring chunks overlap, so there are as many slots a rank as turns.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "engine/core/error.h"
#include "engine/dist/mpi/combine.h"
#include "engine/dist/mpi/mpi_communicator.h"
#include "engine/dist/mpi/node_window.h"

namespace qat {
namespace {

constexpr size_t kSlots = 3;
constexpr size_t kMostSlotBytes = size_t(1) << 20, kLeastSlotBytes = size_t(64) << 10;
// A container's /dev/shm has 64 MiB where nobody asked for more, and MPI needs some of it.
constexpr size_t kMostWindowBytes = size_t(36) << 20;
constexpr size_t kSmallBytes = 4096;  // what takes one turn: everyone combines everything
constexpr size_t kLine = 64;
constexpr int64_t kThreadBytes = 128 << 10;  // less is not worth a second thread

size_t slot_bytes(int ranks) {
  const size_t bytes = kMostWindowBytes / kSlots / size_t(ranks);
  return std::max(std::clamp(bytes, kLeastSlotBytes, kMostSlotBytes), kLine * size_t(ranks)) /
         kLine * kLine;
}

/// Part `index` of `count`, of a range of items; whole cache lines of 4-byte items.
struct Share {
  int64_t first, count;
};
Share share_of(int64_t items, int index, int count) {
  constexpr int64_t kItems = int64_t(kLine) / 4;
  const int64_t each = (items + count - 1) / count;
  const int64_t step = (each + kItems - 1) / kItems * kItems;
  const int64_t first = std::min(items, step * index);
  return {first, std::min(step, items - first)};
}

class WindowCommunicator : public MpiCommunicator {
 public:
  explicit WindowCommunicator(std::unique_ptr<MpiSession> s)
      : MpiCommunicator(std::move(s)),
        slot_bytes_(slot_bytes(size())),
        window_(
            session().node(), kSlots * slot_bytes_ + 2 * kSmallBytes,
            session().crowded() ? NodeWindow::Wait::sleep_at_once : NodeWindow::Wait::spin_first),
        threads_(std::min(session().processors(), omp_get_max_threads())) {}
  // Whoever is early sleeps here, where MPI's own end would spin.
  ~WindowCommunicator() override {
    if (std::uncaught_exceptions() == 0) window_.barrier();
  }

  void all_reduce(std::span<float> data) override { reduce_all(data); }
  void all_reduce(std::span<double> data) override { reduce_all(data); }
  void all_reduce_max(std::span<int64_t> data) override { reduce_all(data); }
  void reduce_scatter(std::span<const float> data, Pieces pieces, std::span<float> mine) override {
    require_pieces("reduce_scatter", pieces, int64_t(data.size()));
    if (length(pieces, rank()) != int64_t(mine.size()))
      internal_error("reduce_scatter: expected a piece of {} items, got {}", length(pieces, rank()),
                     mine.size());
    reduce<float>(data.data(), pieces, mine.data(), nullptr);
  }
  using MpiCommunicator::all_gather;
  void all_gather(void* data, size_t item_bytes, Pieces pieces) override;
  void broadcast(void* data, size_t bytes, int root) override;
  void barrier() override { window_.barrier(); }

 private:
  template <class T>
  void reduce_all(std::span<T> data);
  template <class T>
  void reduce_small(std::span<T> data);
  /// Combines pieces of `data` into `mine`; then gathers them into `gathered`, unless it is null.
  template <class T>
  void reduce(const T* data, Pieces pieces, T* mine, T* gathered);

  std::byte* slot(int of_rank, int64_t chunk) const {
    return window_.of(of_rank) + size_t(chunk % int64_t(kSlots)) * slot_bytes_;
  }
  int team(int64_t bytes) const {
    return int(std::clamp<int64_t>(bytes / kThreadBytes, 1, threads_));
  }

  size_t slot_bytes_;
  NodeWindow window_;
  int threads_;
  int64_t small_turns_ = 0;
};

template <class T>
void WindowCommunicator::reduce_all(std::span<T> data) {
  if (data.size_bytes() <= kSmallBytes) return reduce_small(data);
  reduce<T>(data.data(), even_pieces(int64_t(data.size())), nullptr, data.data());
}

// Two places in turn: who is ahead by one writes where nobody reads any more.
template <class T>
void WindowCommunicator::reduce_small(std::span<T> data) {
  const size_t place = kSlots * slot_bytes_ + size_t(small_turns_++ % 2) * kSmallBytes;
  if (!data.empty()) std::memcpy(window_.of(rank()) + place, data.data(), data.size_bytes());
  window_.barrier();
  std::vector<const T*> sources;
  for (int r = 0; r < size(); ++r)
    sources.push_back(reinterpret_cast<const T*>(window_.of(r) + place));
  combine_rows<T>(sources, 0, int64_t(data.size()), data.data());
}

template <class T>
void WindowCommunicator::reduce(const T* data, Pieces pieces, T* mine, T* gathered) {
  const int me = rank(), ranks = size();
  // Of each slot a part a rank: what it is to combine, or, in its own slot, has combined.
  const int64_t part = int64_t(slot_bytes_ / size_t(ranks) / kLine * kLine / sizeof(T));
  const int64_t chunks = (longest(pieces) + part - 1) / part;
  const auto in_slot = [&](int owner_of_slot, int64_t chunk, int owner_of_part) {
    return reinterpret_cast<T*>(slot(owner_of_slot, chunk)) + owner_of_part * part;
  };
  const auto range = [&](int owner, int64_t chunk) {
    const int64_t all = length(pieces, owner), first = std::min(all, chunk * part);
    return Share{pieces[size_t(owner)] + first, std::min(part, all - first)};
  };
  const auto turn = [&](int64_t t, int thread, int threads) {
    if (t < chunks) {
      for (int r = 0; r < ranks; ++r) {
        if (r == me) continue;
        const Share all = range(r, t), s = share_of(all.count, thread, threads);
        if (s.count > 0)
          std::memcpy(in_slot(me, t, r) + s.first, data + all.first + s.first,
                      size_t(s.count) * sizeof(T));
      }
    }
    if (t >= 1 && t <= chunks) {
      const Share all = range(me, t - 1), s = share_of(all.count, thread, threads);
      std::vector<const T*> sources;
      for (int r = 0; r < ranks; ++r)
        sources.push_back(r == me ? data + all.first : in_slot(r, t - 1, me));
      T* result = gathered ? gathered + all.first : mine + (all.first - pieces[size_t(me)]);
      combine_rows<T>(sources, s.first, s.count, result);
      if (gathered && s.count > 0)
        std::memcpy(in_slot(me, t - 1, me) + s.first, result + s.first,
                    size_t(s.count) * sizeof(T));
    }
    if (gathered && t >= 2) {
      for (int r = 0; r < ranks; ++r) {
        if (r == me) continue;
        const Share all = range(r, t - 2), s = share_of(all.count, thread, threads);
        if (s.count > 0)
          std::memcpy(gathered + all.first + s.first, in_slot(r, t - 2, r) + s.first,
                      size_t(s.count) * sizeof(T));
      }
    }
  };
  const int threads = team(part * int64_t(sizeof(T)) * ranks);
  for (int64_t t = 0; t < chunks + (gathered ? 2 : 1); ++t) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    turn(t, omp_get_thread_num(), omp_get_num_threads());
    window_.barrier();
  }
}

void WindowCommunicator::all_gather(void* data, size_t item_bytes, Pieces pieces) {
  require_pieces("all_gather", pieces, -1);
  const int me = rank();
  auto* bytes = static_cast<std::byte*>(data);
  const int64_t most = longest(pieces) * int64_t(item_bytes), room = int64_t(slot_bytes_);
  const int64_t chunks = (most + room - 1) / room;
  const auto range = [&](int owner, int64_t chunk) {
    const int64_t all = length(pieces, owner) * int64_t(item_bytes);
    const int64_t first = std::min(all, chunk * room);
    return Share{pieces[size_t(owner)] * int64_t(item_bytes) + first, std::min(room, all - first)};
  };
  const auto turn = [&](int64_t t, int thread, int threads) {
    if (t < chunks) {
      const Share all = range(me, t), s = share_of(all.count, thread, threads);
      if (s.count > 0)
        std::memcpy(slot(me, t) + s.first, bytes + all.first + s.first, size_t(s.count));
    }
    if (t < 1) return;
    for (int r = 0; r < size(); ++r) {
      if (r == me) continue;
      const Share all = range(r, t - 1), s = share_of(all.count, thread, threads);
      if (s.count > 0)
        std::memcpy(bytes + all.first + s.first, slot(r, t - 1) + s.first, size_t(s.count));
    }
  };
  const int threads = team(std::min(room, most));
  for (int64_t t = 0; t < chunks + 1 && chunks > 0; ++t) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    turn(t, omp_get_thread_num(), omp_get_num_threads());
    window_.barrier();
  }
}

void WindowCommunicator::broadcast(void* data, size_t bytes, int root) {
  auto* all = static_cast<std::byte*>(data);
  const size_t chunks = (bytes + slot_bytes_ - 1) / slot_bytes_;
  for (size_t t = 0; t < chunks + 1 && chunks > 0; ++t) {
    const auto copy = [&](size_t chunk, bool in) {
      const size_t first = chunk * slot_bytes_, count = std::min(slot_bytes_, bytes - first);
      std::byte* place = slot(root, int64_t(chunk));
      std::memcpy(in ? place : all + first, in ? all + first : place, count);
    };
    if (rank() == root && t < chunks) copy(t, true);
    if (rank() != root && t >= 1) copy(t - 1, false);
    window_.barrier();
  }
}

}  // namespace

std::unique_ptr<Communicator> window_communicator(std::unique_ptr<MpiSession> session) {
  return std::make_unique<WindowCommunicator>(std::move(session));
}

}  // namespace qat
