// Collectives over any number of nodes, by messages. The owner of a piece receives what all others
// have for it and combines it in the order of the ranks, a chunk at a time: the same bits as
// through shared memory, whatever network lies between. Who waits for messages sleeps after a short
// spin.
#include <time.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "engine/core/error.h"
#include "engine/dist/mpi/combine.h"
#include "engine/dist/mpi/mpi_communicator.h"

namespace qat {
namespace {

constexpr int64_t kChunkBytes = 4 << 20;       // received at a time, over all ranks
constexpr int64_t kLeastMessage = 32 << 10;    // smaller ones are latency alone
constexpr int64_t kBroadcastBytes = 16 << 20;  // a count is an int
constexpr size_t kSmallBytes = 4096;           // combined by everyone, without an owner
constexpr int kTag = 0;

// MPI moves data only while somebody asks, so a sleep is short.
void sleep_more(int64_t tries) {
  if (tries < 1000) return;
  const long longest = 500'000;
  const struct timespec nap { 0, std::min<long>(longest, 20'000 + 1000 * (tries - 1000)) };
  nanosleep(&nap, nullptr);
}

class MessageCommunicator : public MpiCommunicator {
 public:
  using MpiCommunicator::MpiCommunicator;
  ~MessageCommunicator() override {
    if (std::uncaught_exceptions() == 0) MessageCommunicator::barrier();
  }
  std::string describe() const override { return MpiCommunicator::describe() + ", by messages"; }

  void all_reduce(std::span<float> data) override { reduce_all(data); }
  void all_reduce(std::span<double> data) override { reduce_all(data); }
  void all_reduce_max(std::span<int64_t> data) override { reduce_all(data); }
  void reduce_scatter(std::span<const float> data, Pieces pieces, std::span<float> mine) override {
    require_pieces("reduce_scatter", pieces, int64_t(data.size()));
    if (length(pieces, rank()) != int64_t(mine.size()))
      internal_error("reduce_scatter: expected a piece of {} items, got {}", length(pieces, rank()),
                     mine.size());
    reduce<float>(data.data(), pieces, mine.data());
  }
  using MpiCommunicator::all_gather;
  void all_gather(void* data, size_t item_bytes, Pieces pieces) override;
  void broadcast(void* data, size_t bytes, int root) override;
  void barrier() override {
    requests_.emplace_back();
    require(MPI_Ibarrier(session().world(), &requests_.back()), "MPI_Ibarrier");
    wait();
  }

 private:
  template <class T>
  void reduce_all(std::span<T> data);
  template <class T>
  void reduce(const T* data, Pieces pieces, T* mine);
  void send(const void* data, int64_t bytes, int to);
  void receive(void* data, int64_t bytes, int from);
  void wait();

  std::vector<MPI_Request> requests_;
};

void MessageCommunicator::send(const void* data, int64_t bytes, int to) {
  if (bytes == 0) return;
  requests_.emplace_back();
  require(MPI_Isend(data, int(bytes), MPI_BYTE, to, kTag, session().world(), &requests_.back()),
          "MPI_Isend");
}

void MessageCommunicator::receive(void* data, int64_t bytes, int from) {
  if (bytes == 0) return;
  requests_.emplace_back();
  require(MPI_Irecv(data, int(bytes), MPI_BYTE, from, kTag, session().world(), &requests_.back()),
          "MPI_Irecv");
}

void MessageCommunicator::wait() {
  for (int64_t tries = 0;; ++tries) {
    int done = 0;
    require(MPI_Testall(int(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
            "MPI_Testall");
    if (done) break;
    sleep_more(tries);
  }
  requests_.clear();
}

template <class T>
void MessageCommunicator::reduce_all(std::span<T> data) {
  if (data.size_bytes() <= kSmallBytes) {
    std::vector<T> all(data.size() * size_t(size()));
    requests_.emplace_back();
    require(MPI_Iallgather(data.data(), int(data.size_bytes()), MPI_BYTE, all.data(),
                           int(data.size_bytes()), MPI_BYTE, session().world(), &requests_.back()),
            "MPI_Iallgather");
    wait();
    std::vector<const T*> sources;
    for (size_t r = 0; r < size_t(size()); ++r) sources.push_back(all.data() + r * data.size());
    combine_rows<T>(sources, 0, int64_t(data.size()), data.data());
    return;
  }
  const std::vector<int64_t> pieces = even_pieces(int64_t(data.size()));
  reduce<T>(data.data(), pieces, data.data() + pieces[size_t(rank())]);
  all_gather(data.data(), sizeof(T), pieces);
}

template <class T>
void MessageCommunicator::reduce(const T* data, Pieces pieces, T* mine) {
  const int me = rank(), ranks = size();
  const int64_t part = std::max(kLeastMessage, kChunkBytes / ranks) / int64_t(sizeof(T));
  const int64_t most = longest(pieces);
  std::vector<T> received(size_t(std::min(part, most) * ranks));
  for (int64_t first = 0; first < most; first += part) {
    const auto count = [&](int owner) {
      return std::clamp<int64_t>(length(pieces, owner) - first, 0, part);
    };
    std::vector<const T*> sources(static_cast<size_t>(ranks), nullptr);
    sources[size_t(me)] = data + pieces[size_t(me)] + first;
    // Each begins with its next neighbour, so that not all send to the same one at once.
    for (int step = 1; step < ranks; ++step) {
      const int from = (me + ranks - step) % ranks, to = (me + step) % ranks;
      T* place = received.data() + from * std::min(part, most);
      sources[size_t(from)] = place;
      receive(place, count(me) * int64_t(sizeof(T)), from);
      send(data + pieces[size_t(to)] + first, count(to) * int64_t(sizeof(T)), to);
    }
    wait();
    if (count(me) > 0) combine_rows<T>(sources, 0, count(me), mine + first);
  }
}

void MessageCommunicator::all_gather(void* data, size_t item_bytes, Pieces pieces) {
  require_pieces("all_gather", pieces, -1);
  const int me = rank(), ranks = size();
  auto* bytes = static_cast<std::byte*>(data);
  const auto item = int64_t(item_bytes);
  const int64_t part = std::max(kLeastMessage, kChunkBytes / ranks);
  const int64_t most = longest(pieces) * item;
  for (int64_t first = 0; first < most; first += part) {
    const auto place = [&](int owner) { return bytes + pieces[size_t(owner)] * item + first; };
    const auto count = [&](int owner) {
      return std::clamp<int64_t>(length(pieces, owner) * item - first, 0, part);
    };
    for (int step = 1; step < ranks; ++step) {
      const int from = (me + ranks - step) % ranks, to = (me + step) % ranks;
      receive(place(from), count(from), from);
      send(place(me), count(me), to);
    }
    wait();
  }
}

void MessageCommunicator::broadcast(void* data, size_t bytes, int root) {
  auto* all = static_cast<std::byte*>(data);
  for (size_t first = 0; first < bytes; first += kBroadcastBytes) {
    const int count = int(std::min(size_t(kBroadcastBytes), bytes - first));
    requests_.emplace_back();
    require(MPI_Ibcast(all + first, count, MPI_BYTE, root, session().world(), &requests_.back()),
            "MPI_Ibcast");
    wait();
  }
}

}  // namespace

std::unique_ptr<Communicator> message_communicator(std::unique_ptr<MpiSession> session) {
  return std::make_unique<MessageCommunicator>(std::move(session));
}

}  // namespace qat
