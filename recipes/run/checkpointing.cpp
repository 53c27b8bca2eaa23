#include "recipes/run/checkpointing.h"

#include "engine/core/error.h"
#include "engine/train/optimizer.h"
#include "engine/train/sharded_store.h"

namespace qat {

namespace {

// Grids of activations, and codes and grids of weights, that were found before training.
bool is_found(const std::string& name) {
  return name.starts_with("scale.") || name.starts_with("zero.") || name.starts_with("codes.");
}
bool is_moment(const std::string& name) {
  return !moment_name(name).parameter.empty();
}

void restore(const Checkpoint& checkpoint, const CheckpointTensor& tensor, Category category,
             const Sharding& sharding, Store& store) {
  const ConstView& from = tensor.view;
  const std::optional<Partition> rows =
      sharding.splits_masters() ? partition_of(sharding, tensor.name) : std::nullopt;
  if (!rows)
    return checkpoint.read(tensor.name, store.make(tensor.name, from.shape, from.dtype, category));
  const Rows own = sharding.own(*rows);
  const Shape mine = with_rows(from.shape, own.count());
  if (const View there = store.find(tensor.name); there && there.shape != mine)
    store.erase(tensor.name);
  checkpoint.read_rows(tensor.name, own, store.make(tensor.name, mine, from.dtype, category));
}

void restore_parameters(const Checkpoint& checkpoint, const std::vector<SourceTensor>& trained,
                        const Sharding& sharding, Store& store) {
  for (const SourceTensor& tensor : trained) {
    const CheckpointTensor* from = checkpoint.tensor(tensor.name);
    if (!from || from->view.shape != tensor.shape)
      refuse("{}: {} is {}; it is a checkpoint of another model", checkpoint.path(), tensor.name,
             from ? "of another shape" : "missing");
    restore(checkpoint, *from, Category::masters, sharding, store);
  }
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (is_found(tensor.name)) restore(checkpoint, tensor, Category::state, sharding, store);
}

}  // namespace

std::vector<CheckpointTensor> checkpoint_tensors(const Store& store, const Sharding& sharding) {
  std::vector<CheckpointTensor> tensors;
  for (const Store::Entry& entry : store.entries()) {
    if (entry.category != Category::masters && entry.category != Category::moments &&
        !is_found(entry.name))
      continue;
    CheckpointTensor tensor{entry.name, entry.view, Finite::required};
    if (sharding.shared()) {
      const std::optional<Partition> rows = partition_of(sharding, entry.name);
      if (!rows && sharding.rank() != 0) continue;
      if (rows) {
        const Rows own = sharding.own(*rows);
        if (!sharding.splits_masters()) tensor.view = rows_of(entry.view, own);
        tensor.first_row = own.begin;
        tensor.all_rows = rows->rows();
      }
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void restore_model(const Checkpoint& checkpoint, const std::vector<SourceTensor>& trained,
                   Store& store) {
  restore_parameters(checkpoint, trained, {}, store);
}

void check_base(const Checkpoint& checkpoint, const std::string& base, const std::string& source) {
  const auto found = checkpoint.state().find("base");
  if (found == checkpoint.state().end() || *found != base)
    refuse(
        "{}: its adapters were trained on another base than {} (the frozen weights differ); "
        "restore that model, or start over with --resume never",
        checkpoint.path(), source);
}

void restore_everything(const Checkpoint& checkpoint, const std::vector<SourceTensor>& trained,
                        const Sharding& sharding, Store& store) {
  restore_parameters(checkpoint, trained, sharding, store);
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (is_moment(tensor.name)) restore(checkpoint, tensor, Category::moments, sharding, store);
}

}  // namespace qat
