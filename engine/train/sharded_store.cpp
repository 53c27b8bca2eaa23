#include "engine/train/sharded_store.h"

#include <cstring>
#include <vector>

#include "engine/train/optimizer.h"

namespace qat {

namespace {

// The Store's buffer of that name, with other rows: the Store has no two of one name at a time.
template <class Fill>
void replace(const std::string& name, int64_t rows, Store& store, const Fill& fill) {
  const View old = store.get(name);
  const Category category = store.category(name);
  std::vector<std::byte> kept(old.data, old.data + old.bytes());
  const View from{kept.data(), old.shape, old.dtype};
  store.erase(name);
  fill(from, store.make(name, with_rows(from.shape, rows), from.dtype, category));
}

}  // namespace

std::optional<Partition> partition_of(const Sharding& sharding, const std::string& tensor) {
  const MomentName moment = moment_name(tensor);
  const Partition* rows = sharding.partition(moment.parameter.empty() ? tensor : moment.parameter);
  if (!rows) return std::nullopt;
  return moment.in_blocks ? in_blocks(*rows) : *rows;
}

void keep_own_rows(const Sharding& sharding, Store& store) {
  if (!sharding.splits_masters()) return;
  for (const auto& [name, partition] : sharding.partitions) {
    if (store.get(name).shape[0] != partition.rows()) continue;
    const Rows own = sharding.own(partition);
    replace(name, own.count(), store, [&](const View& all, const View& mine) {
      if (mine.bytes() > 0) std::memcpy(mine.data, rows_of(all, own).data, mine.bytes());
    });
  }
}

void gather_all_rows(const Sharding& sharding, Store& store) {
  if (!sharding.splits_masters()) return;
  for (const auto& [name, partition] : sharding.partitions) {
    if (store.category(name) != Category::masters) continue;
    const Rows own = sharding.own(partition);
    replace(name, partition.rows(), store, [&](const View& mine, const View& all) {
      const View place = rows_of(all, own);
      if (mine.bytes() > 0) std::memcpy(place.data, mine.data, mine.bytes());
      sharding.ranks->all_gather(all.data, all.bytes() / size_t(partition.rows()),
                                 partition.bounds());
    });
  }
}

}  // namespace qat
