// One process: every sum is already there.
#include <cstdlib>
#include <cstring>

#include "engine/core/error.h"
#include "engine/dist/communicator.h"

namespace qat {
namespace {

class SingleProcess : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::string describe() const override { return "single process"; }

  void all_reduce(std::span<float>) override {}
  void all_reduce(std::span<double>) override {}
  void all_reduce_max(std::span<int64_t>) override {}
  void reduce_scatter(std::span<const float> data, Pieces pieces, std::span<float> mine) override {
    if (pieces.size() != 2 || pieces[1] - pieces[0] != int64_t(mine.size()) || pieces[0] < 0 ||
        pieces[1] > int64_t(data.size()))
      internal_error("reduce_scatter: expected one piece of {} items, got {}", mine.size(),
                     pieces.size());
    if (!mine.empty()) std::memmove(mine.data(), data.data() + pieces[0], mine.size_bytes());
  }
  void all_gather(void*, size_t, Pieces) override {}
  void broadcast(void*, size_t, int) override {}
  std::vector<std::string> all_gather(const std::string& text) override { return {text}; }
  void barrier() override {}
  [[noreturn]] void abort(int code) override { std::_Exit(code); }
};

}  // namespace

std::unique_ptr<Communicator> single_process() {
  return std::make_unique<SingleProcess>();
}

int default_threads(const Communicator& ranks) {
  return std::getenv("OMP_NUM_THREADS") ? 0 : ranks.threads();
}

}  // namespace qat
