#include "recipes/run/checkpointing.h"

#include "engine/core/error.h"
#include "models/decoder.h"
#include "models/source.h"

namespace qat {

namespace {

bool is_scale(const std::string& name) {
  return name.starts_with("scale.") || name.starts_with("zero.");
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
        is_scale(entry.name))
      tensors.push_back({entry.name, entry.view, Finite::required});
  return tensors;
}

void restore_model(const Checkpoint& checkpoint, const ModelConfig& config, Store& store) {
  for (const SourceTensor& tensor : expected_tensors(config)) {
    const ConstView from = checkpoint.find(tensor.name);
    if (!from || from.shape != tensor.shape)
      refuse("{}: {} is {}; it is a checkpoint of another model", checkpoint.path(), tensor.name,
             from ? "of another shape" : "missing");
    restore(checkpoint, tensor.name, Category::masters, store);
  }
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (is_scale(tensor.name)) restore(checkpoint, tensor.name, Category::state, store);
}

void restore_everything(const Checkpoint& checkpoint, const ModelConfig& config, Store& store) {
  restore_model(checkpoint, config, store);
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (is_moment(tensor.name)) restore(checkpoint, tensor.name, Category::moments, store);
}

}  // namespace qat
