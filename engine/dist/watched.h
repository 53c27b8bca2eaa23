// A communicator that notes on the board what its rank waits in, and measures for how long.
#pragma once

#include <chrono>
#include <cstdlib>
#include <utility>

#include "engine/dist/board.h"
#include "engine/dist/communicator.h"

namespace qat {

class Watched : public Communicator {
 public:
  /// Both outlive it.
  Watched(Communicator& ranks, LifeSign& sign) : ranks_(ranks), sign_(sign) {}

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  int local_rank() const override { return ranks_.local_rank(); }
  int local_size() const override { return ranks_.local_size(); }
  int threads() const override { return ranks_.threads(); }
  std::string describe() const override { return ranks_.describe(); }

  void all_reduce(std::span<float> data) override {
    during(Collective::all_reduce, [&] { ranks_.all_reduce(data); });
  }
  void all_reduce(std::span<double> data) override {
    during(Collective::all_reduce, [&] { ranks_.all_reduce(data); });
  }
  void all_reduce_max(std::span<int64_t> data) override {
    during(Collective::all_reduce_max, [&] { ranks_.all_reduce_max(data); });
  }
  void reduce_scatter(std::span<const float> data, Pieces pieces, std::span<float> mine) override {
    during(Collective::reduce_scatter, [&] { ranks_.reduce_scatter(data, pieces, mine); });
  }
  void all_gather(void* data, size_t item_bytes, Pieces pieces) override {
    during(Collective::all_gather, [&] { ranks_.all_gather(data, item_bytes, pieces); });
  }
  void broadcast(void* data, size_t bytes, int root) override {
    during(Collective::broadcast, [&] { ranks_.broadcast(data, bytes, root); });
  }
  std::vector<std::string> all_gather(const std::string& text) override {
    std::vector<std::string> all;
    during(Collective::all_gather, [&] { all = ranks_.all_gather(text); });
    return all;
  }
  void barrier() override {
    during(Collective::barrier, [&] { ranks_.barrier(); });
  }
  [[noreturn]] void abort(int code) override {
    ranks_.abort(code);
    std::_Exit(code);  // the compiler does not know that a virtual call does not return
  }

  /// Spent in collectives since the last call.
  double take_waited_seconds() { return std::exchange(waited_, 0.0); }

 private:
  template <class Work>
  void during(Collective collective, const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    sign_.collectives.fetch_add(1, std::memory_order_relaxed);
    sign_.waiting.store(collective, std::memory_order_relaxed);
    work();
    sign_.waiting.store(Collective::none, std::memory_order_relaxed);
    sign_.progress.fetch_add(1, std::memory_order_relaxed);
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  Communicator& ranks_;
  LifeSign& sign_;
  double waited_ = 0;
};

}  // namespace qat
