#include "engine/dist/checked.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

#include "engine/core/error.h"

namespace qat {
namespace {

class Checked : public Communicator {
 public:
  explicit Checked(std::unique_ptr<Communicator> ranks) : ranks_(std::move(ranks)) {}

  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }
  int local_rank() const override { return ranks_->local_rank(); }
  int local_size() const override { return ranks_->local_size(); }
  int threads() const override { return ranks_->threads(); }
  std::string describe() const override { return ranks_->describe() + ", collectives checked"; }

  void all_reduce(std::span<float> data) override {
    compare(fmt::format("all_reduce of {} floats", data.size()));
    ranks_->all_reduce(data);
  }
  void all_reduce(std::span<double> data) override {
    compare(fmt::format("all_reduce of {} doubles", data.size()));
    ranks_->all_reduce(data);
  }
  void all_reduce_max(std::span<int64_t> data) override {
    compare(fmt::format("all_reduce_max of {} integers", data.size()));
    ranks_->all_reduce_max(data);
  }
  void reduce_scatter(std::span<const float> data, Pieces pieces, std::span<float> mine) override {
    compare(fmt::format("reduce_scatter of {} floats in pieces from {}", data.size(),
                        fmt::join(pieces, ", ")));
    ranks_->reduce_scatter(data, pieces, mine);
  }
  void all_gather(void* data, size_t item_bytes, Pieces pieces) override {
    compare(fmt::format("all_gather of items of {} bytes in pieces from {}", item_bytes,
                        fmt::join(pieces, ", ")));
    ranks_->all_gather(data, item_bytes, pieces);
  }
  void broadcast(void* data, size_t bytes, int root) override {
    compare(fmt::format("broadcast of {} bytes from rank {}", bytes, root));
    ranks_->broadcast(data, bytes, root);
  }
  std::vector<std::string> all_gather(const std::string& text) override {
    compare("all_gather of a text");
    return ranks_->all_gather(text);
  }
  void barrier() override {
    compare("barrier");
    ranks_->barrier();
  }
  [[noreturn]] void abort(int code) override {
    ranks_->abort(code);
    std::_Exit(code);  // the compiler does not know that a virtual call does not return
  }

 private:
  void compare(const std::string& next) {
    ++sequence_;
    const auto all = ranks_->all_gather(fmt::format("{}: {}", sequence_, next));
    for (size_t other = 1; other < all.size(); ++other)
      if (all[other] != all[0])
        throw Error(Exit::rank_failed,
                    fmt::format("the ranks do not do the same: rank 0 is at collective {}, rank {} "
                                "at {}",
                                all[0], other, all[other]));
  }

  std::unique_ptr<Communicator> ranks_;
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> checked(std::unique_ptr<Communicator> ranks) {
  return std::make_unique<Checked>(std::move(ranks));
}

}  // namespace qat
