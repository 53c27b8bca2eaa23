#include "recipes/run/rank_checks.h"

#include <chrono>
#include <thread>

#include "engine/core/version.h"
#include "engine/dist/agreement.h"
#include "engine/train/checkpoint_format.h"

namespace qat {

namespace {

Checkpoint load_when_visible(const std::string& path) {
  constexpr auto kPatience = std::chrono::seconds(30);
  const auto start = std::chrono::steady_clock::now();
  while (true) {
    try {
      return Checkpoint::load(path);
    } catch (const Error&) {
      if (std::chrono::steady_clock::now() - start > kPatience) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
  }
}

}  // namespace

void check_shares(const recipe::Recipe& recipe, const Communicator& ranks) {
  const int64_t batch = recipe.train.batch, size = ranks.size(), micro = recipe.train.micro_batch;
  if (batch % size != 0)
    refuse(
        "train.batch: {} sequences do not divide over {} ranks; expected a multiple of {}, such as "
        "{}, or a number of ranks that divides {}",
        batch, size, size, (batch / size + 1) * size, batch);
  if (micro > 0 && batch / size % micro != 0)
    refuse(
        "train.micro_batch: {} does not divide the {} sequences of a rank (train.batch {} over {} "
        "ranks); expected a divisor of {}",
        micro, batch / size, batch, size, batch / size);
}

void require_same_run(const recipe::Recipe& recipe, const std::string& config_json,
                      Communicator& ranks) {
  require_alike(ranks,
                {{"the recipe's hash", recipe::recipe_hash(recipe)},
                 {"the program's version", kVersion},
                 {"the model's configuration",
                  checkpoint_format::checksum_of(config_json.data(), config_json.size())}},
                Exit::refused, "every rank needs the same");
}

void require_same_weights(const Store& store, const Sharding& sharding, Communicator& ranks,
                          int64_t step) {
  if (ranks.size() == 1) return;
  std::vector<Fact> facts;
  for (const Store::Entry& entry : store.entries())
    if (entry.category == Category::masters &&
        !(sharding.splits_masters() && sharding.partition(entry.name)))
      facts.push_back({"the checksum of " + entry.name,
                       checkpoint_format::checksum_of(entry.view.data, entry.view.bytes())});
  require_alike(
      ranks, facts, Exit::rank_failed,
      fmt::format("the weights differ at step {}; start again from the last checkpoint", step));
}

std::optional<Checkpoint> checkpoint_of_first(
    Communicator& ranks, const std::function<std::optional<Checkpoint>()>& find) {
  std::optional<Checkpoint> found;
  if (ranks.rank() == 0) found = find();
  const std::string path = of_first(ranks, found ? found->path() : "");
  if (ranks.rank() > 0 && !path.empty()) found = load_when_visible(path);
  return found;
}

}  // namespace qat
