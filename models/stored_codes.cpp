#include "models/stored_codes.h"

#include <algorithm>
#include <cstring>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/compressed_weights.h"
#include "models/packed_weights.h"
#include "models/source_kinds.h"

namespace qat {

StaticGrid StoredCodes::static_activation(const std::string& path) const {
  internal_error("{} has no static activation", path);
}

std::unique_ptr<StoredCodes> open_stored_codes(const Json& quantization_config,
                                               const std::string& file,
                                               std::shared_ptr<const Safetensors> weights) {
  if (!quantization_config.is_object()) refuse("{}: quantization_config is not an object", file);
  const auto at = quantization_config.find("quant_method");
  const Json value = at == quantization_config.end() ? Json() : *at;
  const std::string method = value.is_string() ? value.get<std::string>() : "";
  if (method == "compressed-tensors")
    return std::make_unique<CompressedWeights>(quantization_config, file, std::move(weights));
  if (method == "gptq" || method == "awq")
    return std::make_unique<PackedWeights>(quantization_config, file, std::move(weights));
  refuse("{}: quantization_config.quant_method is {}; compressed-tensors, gptq and awq are read",
         file, printable(value.dump()));
}

std::unique_ptr<StoredCodes> open_stored_codes(const std::string& directory) {
  const std::string file = directory + "/config.json";
  const Json json = read_json_file(file, {.bytes = 16u << 20, .depth = 32, .values = 200'000});
  if (!json.is_object() || !json.contains("quantization_config"))
    refuse("{}: no quantization_config", file);
  return open_stored_codes(json["quantization_config"], file,
                           Safetensors::open_directory(directory));
}

const SafetensorsTensor& StoredParts::get(const std::string& name) const {
  const SafetensorsTensor* found = weights_->find(name);
  if (!found) refuse("{}: tensor {} is missing", file_, printable(name));
  return *found;
}

const SafetensorsTensor& StoredParts::expect(const std::string& name, const Shape& shape,
                                             std::initializer_list<StoredType> types) const {
  const SafetensorsTensor& tensor = get(name);
  if (tensor.shape != shape)
    refuse("{}: tensor {} has shape {}, expected {}", file_, printable(name), to_text(tensor.shape),
           to_text(shape));
  if (std::find(types.begin(), types.end(), tensor.type) == types.end())
    refuse("{}: tensor {} has dtype {}, which is not expected there", file_, printable(name),
           name_of(tensor.type));
  return tensor;
}

std::vector<int32_t> StoredParts::words(const SafetensorsTensor& tensor) const {
  std::vector<int32_t> words(size_t(tensor.shape.count()));
  std::memcpy(words.data(), weights_->data(tensor), words.size() * 4);
  return words;
}

std::vector<float> StoredParts::floats(const SafetensorsTensor& tensor) const {
  std::vector<float> values(size_t(tensor.shape.count()));
  weights_->read_floats(tensor, 0, tensor.shape.count(), values.data());
  return values;
}

bool is_decoder_linear(const std::string& module) {
  constexpr const char* kLinears[] = {".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj",
                                      ".self_attn.o_proj", ".mlp.gate_proj",    ".mlp.up_proj",
                                      ".mlp.down_proj"};
  return std::any_of(std::begin(kLinears), std::end(kLinears),
                     [&](const char* end) { return module.ends_with(end); });
}

}  // namespace qat
