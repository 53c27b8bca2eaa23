#include "recipes/run/checkpointing.h"

#include "engine/core/error.h"

namespace qat {

namespace {

// Grids of activations, and codes and grids of weights, that were found before training.
bool is_found(const std::string& name) {
  return name.starts_with("scale.") || name.starts_with("zero.") || name.starts_with("codes.");
}
bool is_moment(const std::string& name) {
  return name.starts_with("moment");
}

void restore(const Checkpoint& checkpoint, const std::string& name, Category category,
             Store& store) {
  const ConstView from = checkpoint.find(name);
  checkpoint.read(name, store.make(name, from.shape, from.dtype, category));
}

}  // namespace

std::vector<CheckpointTensor> checkpoint_tensors(const Store& store) {
  std::vector<CheckpointTensor> tensors;
  for (const Store::Entry& entry : store.entries())
    if (entry.category == Category::masters || entry.category == Category::moments ||
        is_found(entry.name))
      tensors.push_back({entry.name, entry.view, Finite::required});
  return tensors;
}

void restore_model(const Checkpoint& checkpoint, const std::vector<SourceTensor>& trained,
                   Store& store) {
  for (const SourceTensor& tensor : trained) {
    const ConstView from = checkpoint.find(tensor.name);
    if (!from || from.shape != tensor.shape)
      refuse("{}: {} is {}; it is a checkpoint of another model", checkpoint.path(), tensor.name,
             from ? "of another shape" : "missing");
    restore(checkpoint, tensor.name, Category::masters, store);
  }
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (is_found(tensor.name)) restore(checkpoint, tensor.name, Category::state, store);
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
                        Store& store) {
  restore_model(checkpoint, trained, store);
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (is_moment(tensor.name)) restore(checkpoint, tensor.name, Category::moments, store);
}

}  // namespace qat
