#include "engine/dist/agreement.h"

namespace qat {

bool of_any(Communicator& ranks, bool mine) {
  int64_t flag[1] = {mine ? 1 : 0};
  ranks.all_reduce_max(flag);
  return flag[0] != 0;
}

std::string of_first(Communicator& ranks, const std::string& mine) {
  return ranks.all_gather(mine).front();
}

void require_alike(Communicator& ranks, const std::vector<Fact>& facts, Exit code,
                   const std::string& what_to_do) {
  if (ranks.size() == 1) return;
  constexpr char kNext = '\n';
  std::string text;
  for (const Fact& fact : facts) text += fact.value + kNext;
  const std::vector<std::string> all = ranks.all_gather(text);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    size_t here = 0, there = 0;
    for (const Fact& fact : facts) {
      const size_t ends = all[0].find(kNext, here), other_ends = all[rank].find(kNext, there);
      const std::string ours = all[0].substr(here, ends - here);
      const std::string theirs = all[rank].substr(there, other_ends - there);
      if (ours != theirs)
        throw Error(code, fmt::format("{} of rank {} is {}, of rank 0 {}: {}", fact.name, rank,
                                      theirs, ours, what_to_do));
      here = ends + 1;
      there = other_ends + 1;
    }
  }
}

}  // namespace qat
