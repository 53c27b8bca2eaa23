#include "models/export/huggingface.h"

#include <vector>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"
#include "models/export/staged_directory.h"
#include "models/export/verify.h"

namespace qat {
namespace {

const char* torch_name(StoredType type) {
  switch (type) {
    case StoredType::f32:
      return "float32";
    case StoredType::bf16:
      return "bfloat16";
    case StoredType::f16:
      return "float16";
    default:
      internal_error("a model is exported as F32, BF16 or F16, not {}", name_of(type));
  }
}

}  // namespace

std::string with_dtype(const std::string& config_json, StoredType type) {
  Json json = parse_json_object(config_json, "config.json");
  const bool newer = json.contains("dtype");
  json.erase("torch_dtype");
  json[newer ? "dtype" : "torch_dtype"] = torch_name(type);
  json.erase("quantization_config");
  return json.dump(2) + "\n";
}

std::string with_provenance(const std::string& config_json, const ExportModel& model) {
  if (model.provenance.empty()) return config_json;
  Json json = parse_json_object(config_json, "config.json");
  json["quantized_by"] = model.provenance;
  return json.dump(2) + "\n";
}

void export_huggingface(const std::string& directory, const ExportModel& model,
                        const ExportFiles& files, const HuggingFaceOptions& options) {
  check_export(model, "huggingface");
  check_output(directory, files);
  StagedDirectory staged(directory);
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, const ExportTensor*> by_name;
  for (const ExportTensor& tensor : model.tensors) {
    entries.push_back({tensor.name, options.type, tensor.shape});
    by_name[tensor.name] = &tensor;
  }
  std::vector<float> values;
  write_safetensors_directory(staged.path(), entries, options.max_shard_bytes,
                              [&](const SafetensorsEntry& entry, const ByteSink& sink) {
                                values.resize(size_t(entry.shape.count()));
                                model.floats(*by_name.at(entry.name), values.data());
                                put_floats(sink, entry.type, values.data(), entry.shape.count());
                              });
  write_side_files(staged.path(), files);
  write_file_atomically(staged.path() + "/config.json",
                        with_provenance(with_dtype(model.config_json, options.type), model));
  verify_or_keep(staged, [&] { return find_fault(staged.path(), model); });
  staged.commit();
}

}  // namespace qat
