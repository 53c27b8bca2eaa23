// Ranks that are not there: for planning what one of them would need.
#include "engine/core/error.h"
#include "engine/dist/communicator.h"

namespace qat {
namespace {

class PlannedRanks : public Communicator {
 public:
  explicit PlannedRanks(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::string describe() const override { return fmt::format("{} planned ranks", size_); }

  void all_reduce(std::span<float>) override { nobody(); }
  void all_reduce(std::span<double>) override { nobody(); }
  void all_reduce_max(std::span<int64_t>) override { nobody(); }
  void reduce_scatter(std::span<const float>, Pieces, std::span<float>) override { nobody(); }
  void all_gather(void*, size_t, Pieces) override { nobody(); }
  void broadcast(void*, size_t, int) override { nobody(); }
  std::vector<std::string> all_gather(const std::string&) override { nobody(); }
  void barrier() override { nobody(); }
  [[noreturn]] void abort(int) override { nobody(); }

 private:
  [[noreturn]] static void nobody() { internal_error("planned ranks were asked to exchange"); }
  int size_;
};

}  // namespace

std::unique_ptr<Communicator> planned_ranks(int size) {
  return std::make_unique<PlannedRanks>(size);
}

}  // namespace qat
