#include "models/export/codes_directory.h"

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "kernels/float_types.h"
#include "models/export/huggingface.h"
#include "models/export/staged_directory.h"
#include "models/export/verify.h"

namespace qat {
namespace {

void check_scales(const QuantizedMatrix& matrix, StoredType type, const std::string& name) {
  for (float scale : matrix.scales) {
    const float kept = type == StoredType::bf16  ? to_float(to_bfloat16(scale))
                       : type == StoredType::f16 ? to_float(to_float16(scale))
                                                 : scale;
    if (kept != scale)
      refuse("{}: scale {} is not exact in {}; store F32 scales or train with that scale type",
             name, scale, name_of(type));
  }
}

class Writer {
 public:
  Writer(const ExportModel& model, const CodesFormat& format) : model_(model), format_(format) {
    for (const ExportTensor& tensor : model.tensors) {
      if (!tensor.quantized()) {
        add({tensor.name, format.type, tensor.shape}, tensor);
        continue;
      }
      for (const SafetensorsEntry& entry : format.entries(tensor)) add(entry, tensor);
    }
  }

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }

  void put(const SafetensorsEntry& entry, const ByteSink& sink) const {
    const ExportTensor& tensor = *owners_.at(entry.name);
    if (!tensor.quantized()) {
      std::vector<float> values(size_t(entry.shape.count()));
      model_.floats(tensor, values.data());
      return put_floats(sink, entry.type, values.data(), entry.shape.count());
    }
    const std::string part = entry.name.substr(module_of(tensor).size() + 1);
    format_.put(
        tensor, part, entry, [&] { return codes_of(tensor); }, sink);
  }

 private:
  void add(const SafetensorsEntry& entry, const ExportTensor& tensor) {
    entries_.push_back(entry);
    owners_[entry.name] = &tensor;
  }

  QuantizedMatrix codes_of(const ExportTensor& tensor) const {
    const std::string name = format_.name + " export: " + tensor.name;
    QuantizedMatrix matrix = model_.codes(tensor);
    matrix.spec = *tensor.quant.weight;
    check_matrix(matrix, name);
    check_positive_scales(matrix, name);
    if (matrix.shape != tensor.shape) internal_error("{} was given codes of another shape", name);
    check_scales(matrix, format_.scale_type, name);
    return matrix;
  }

  const ExportModel& model_;
  const CodesFormat& format_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, const ExportTensor*> owners_;
};

}  // namespace

std::string module_of(const ExportTensor& tensor) {
  return tensor.name.substr(0, tensor.name.size() - std::string_view(".weight").size());
}

bool is_linear(const ExportTensor& tensor) {
  return tensor.name.ends_with("_proj.weight") || tensor.name == "lm_head.weight";
}

void write_codes_directory(const std::string& directory, const ExportModel& model,
                           const ExportFiles& files, const CodesFormat& format,
                           uint64_t max_shard_bytes) {
  StagedDirectory staged(directory);
  const Writer writer(model, format);
  write_safetensors_directory(
      staged.path(), writer.entries(), max_shard_bytes,
      [&](const SafetensorsEntry& entry, const ByteSink& sink) { writer.put(entry, sink); });
  write_side_files(staged.path(), files);
  for (const auto& [name, text] : format.texts)
    write_file_atomically(staged.path() + "/" + name, text);
  Json config = Json::parse(with_provenance(with_dtype(model.config_json, format.type), model));
  config["quantization_config"] = format.quantization_config;
  write_file_atomically(staged.path() + "/config.json", config.dump(2) + "\n");
  verify_or_keep(staged, [&] { return find_fault(staged.path(), model); });
  staged.commit();
}

}  // namespace qat
