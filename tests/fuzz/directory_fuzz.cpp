// A directory that a model or an adapter is read from: Hugging Face, compressed-tensors, GPTQ, AWQ,
// PEFT. The input is a bundle of its files; a safetensors file stands in it as header and data.
#include <vector>

#include "engine/io/json.h"
#include "kernels/kernels.h"
#include "models/adapter.h"
#include "models/export/peft.h"
#include "models/families.h"
#include "models/source.h"
#include "recipes/run/inspect.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

void read_model(const std::string& directory) {
  const auto source = ModelSource::open(directory);
  const QuantPlan plan = source->quantization();
  std::vector<float> values;
  for (const SourceTensor& tensor : source->tensors()) {
    values.resize(size_t(tensor.shape.count()));
    read_or_refuse([&] { source->read(tensor.name, values.data()); });
    const std::string linear = tensor.name.substr(0, tensor.name.rfind('.'));
    const auto quant = plan.linears.find(linear);
    if (quant == plan.linears.end() || !tensor.name.ends_with(".weight")) continue;
    if (quant->second.weight) read_or_refuse([&] { source->read_codes(tensor.name); });
    if (quant->second.static_activation) read_or_refuse([&] { source->static_activation(linear); });
  }
}

void read_adapter(const std::string& directory) {
  const std::string file = directory + "/config.json";
  const ModelConfig config = config_from_huggingface(read_json_file(file), file);
  AdapterPlan plan;
  plan.linears = read_peft_plan(directory, config);
  Store store;
  Stream stream;
  load_peft(directory, plan, config, store, cpu_kernels(), stream);
}

}  // namespace

bool fuzz_directory(std::string_view input) {
  static const Folder folder;
  folder.clear();
  const Bundle bundle =
      to_bundle(input, {"config.json", "quantize_config.json", "model.safetensors.index.json",
                        "model.safetensors", "model-00001-of-00002.safetensors",
                        "model-00002-of-00002.safetensors", "adapter_config.json",
                        "adapter_model.safetensors", "recipe.yaml", "manifest.json"});
  for (const auto& [name, bytes] : bundle)
    folder.write(name, name.ends_with(".safetensors") ? safetensors_file(bytes) : bytes);
  const std::string& path = folder.path();
  const bool whole = read_or_refuse([&] { to_json(inspect(path), path); });
  const auto read = bundle.contains("adapter_config.json") ? read_adapter : read_model;
  return read_or_refuse([&] { read(path); }) && whole;
}

}  // namespace qat::fuzz
