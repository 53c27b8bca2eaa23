// Ranks that are threads of one process, for tests of what several ranks compute: sums in the order
// of the ranks, as Communicator promises.
#pragma once

#include <atomic>
#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "engine/dist/communicator.h"

namespace qat {

/// What the ranks show each other.
struct Meeting {
  explicit Meeting(int ranks) : gate(ranks), shown(size_t(ranks)), texts(size_t(ranks)) {}
  std::barrier<> gate;
  std::vector<const void*> shown;
  std::vector<std::string> texts;
  std::atomic<int64_t> sent = 0;  ///< bytes that one rank read of another
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return int(meeting_.shown.size()); }
  int local_rank() const override { return rank_; }
  int local_size() const override { return size(); }
  std::string describe() const override { return "threads"; }

  void all_reduce(std::span<float> data) override { sum(data); }
  void all_reduce(std::span<double> data) override { sum(data); }
  void all_reduce_max(std::span<int64_t> data) override {
    combine(data, [](int64_t a, int64_t b) { return std::max(a, b); });
  }
  void reduce_scatter(std::span<const float> data, Pieces pieces, std::span<float> mine) override {
    std::vector<float> copy(data.begin(), data.end());
    sum(std::span<float>(copy));
    std::copy(copy.begin() + pieces[size_t(rank_)], copy.begin() + pieces[size_t(rank_) + 1],
              mine.begin());
  }
  void all_gather(void* data, size_t item, Pieces pieces) override {
    meet(data, [&](int from) {
      const size_t begin = size_t(pieces[size_t(from)]) * item;
      const size_t bytes = size_t(pieces[size_t(from) + 1]) * item - begin;
      if (from == rank_ || bytes == 0) return;
      std::memcpy(static_cast<std::byte*>(data) + begin,
                  static_cast<const std::byte*>(meeting_.shown[size_t(from)]) + begin, bytes);
      meeting_.sent += int64_t(bytes);
    });
  }
  void broadcast(void* data, size_t bytes, int root) override {
    meet(data, [&](int from) {
      if (from == root && from != rank_) std::memcpy(data, meeting_.shown[size_t(from)], bytes);
    });
  }
  std::vector<std::string> all_gather(const std::string& text) override {
    meeting_.gate.arrive_and_wait();
    meeting_.texts[size_t(rank_)] = text;
    meeting_.gate.arrive_and_wait();
    std::vector<std::string> all = meeting_.texts;
    meeting_.gate.arrive_and_wait();
    return all;
  }
  void barrier() override { meeting_.gate.arrive_and_wait(); }
  [[noreturn]] void abort(int code) override { std::_Exit(code); }

 private:
  template <class Visit>
  void meet(const void* mine, const Visit& visit) {
    meeting_.shown[size_t(rank_)] = mine;
    meeting_.gate.arrive_and_wait();
    for (int from = 0; from < size(); ++from) visit(from);
    meeting_.gate.arrive_and_wait();
  }
  template <class T, class Combine>
  void combine(std::span<T> data, const Combine& of_two) {
    std::vector<T> result(data.size());
    meet(data.data(), [&](int from) {
      const T* theirs = static_cast<const T*>(meeting_.shown[size_t(from)]);
      for (size_t i = 0; i < data.size(); ++i)
        result[i] = from == 0 ? theirs[i] : of_two(result[i], theirs[i]);
    });
    std::copy(result.begin(), result.end(), data.begin());
    meeting_.gate.arrive_and_wait();
  }
  template <class T>
  void sum(std::span<T> data) {
    combine(data, [](T a, T b) { return a + b; });
  }

  Meeting& meeting_;
  int rank_;
};

/// Runs `work` on so many ranks at once, until all are through. Returns the bytes they gathered of
/// each other.
inline int64_t on_ranks(int count, const std::function<void(Communicator&)>& work) {
  Meeting meeting(count);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      ThreadRank mine(meeting, rank);
      work(mine);
    });
  for (std::thread& thread : threads) thread.join();
  return meeting.sent;
}

}  // namespace qat
