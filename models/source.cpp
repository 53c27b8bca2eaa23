#include "models/source.h"

#include <filesystem>
#include <map>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "kernels/float_types.h"
#include "models/source_kinds.h"

namespace qat {

std::unique_ptr<ModelSource> ModelSource::open(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    refuse("{}: does not exist; expected a Hugging Face model directory or a .gguf file", path);
  if (std::filesystem::is_directory(status)) return open_huggingface(path);
  return open_gguf(path);
}

QuantizedMatrix ModelSource::read_codes(const std::string& name) const {
  internal_error("{}: {} is not stored as codes", path(), name);
}

StaticGrid ModelSource::static_activation(const std::string& linear) const {
  internal_error("{}: {} has no static activation", path(), linear);
}

std::string to_text(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::vector<SourceTensor> match_tensors(const ModelConfig& config, const std::string& path,
                                        const std::vector<SourceTensor>& stored) {
  std::map<std::string_view, const SourceTensor*> left;
  for (const SourceTensor& tensor : stored) left.emplace(tensor.name, &tensor);
  std::vector<SourceTensor> wanted = expected_tensors(config);
  for (const SourceTensor& tensor : wanted) {
    const auto at = left.find(tensor.name);
    if (at == left.end()) {
      const bool head = tensor.name == "lm_head.weight";
      refuse("{}: tensor {} is missing{}", path, tensor.name,
             head ? " (the configuration says that the head is not tied to the embeddings)" : "");
    }
    if (at->second->shape != tensor.shape)
      refuse("{}: tensor {} has shape {}, the configuration asks for {}", path, tensor.name,
             to_text(at->second->shape), to_text(tensor.shape));
    left.erase(at);
  }
  if (!left.empty())
    refuse("{}: tensor {} has no place in this {} configuration ({} such tensors)", path,
           printable(left.begin()->first), config.architecture, left.size());
  return wanted;
}

void check_finite(const std::string& path, const std::string& name, const float* values,
                  int64_t count) {
  const auto finite = [](float v) { return (bits_of(v) & 0x7F800000u) != 0x7F800000u; };
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= uint32_t(!finite(values[i]));
  if (!bad) return;
  for (int64_t i = 0; i < count; ++i)
    if (!finite(values[i]))
      refuse("{}: tensor {} holds {} at element {}; the weights are damaged", path, name, values[i],
             i);
}

}  // namespace qat
