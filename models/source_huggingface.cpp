// A Hugging Face directory: config.json and safetensors, one file or shards; integer weights of
// compressed-tensors, GPTQ and AWQ are dequantized on the way.
#include <cstring>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/json.h"
#include "engine/io/printable.h"
#include "engine/io/safetensors.h"
#include "models/families.h"
#include "models/source_kinds.h"
#include "models/stored_codes.h"

namespace qat {
namespace {

constexpr JsonLimits kConfigLimits = {.bytes = 16u << 20, .depth = 32, .values = 200'000};

// Buffers that old checkpoints saved along; nothing is trained or lost in them.
bool is_buffer(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

class HuggingFaceSource : public ModelSource {
 public:
  explicit HuggingFaceSource(const std::string& directory) : path_(directory) {
    const std::string file = directory + "/config.json";
    json_ = read_text_file(file, kConfigLimits.bytes);
    Json json = parse_json_object(json_, file, kConfigLimits);
    // An account of how these very files came about; what is made from them gets its own.
    if (json.erase("quantized_by") > 0) json_ = json.dump(2) + "\n";
    config_ = config_from_huggingface(json, file);
    for (const std::string& key : unknown_keys(json))
      log::info("{}: {} is not known here and taken for neutral", file, key);
    weights_ = Safetensors::open_directory(directory);
    std::vector<SourceTensor> all;
    if (const auto at = json.find("quantization_config"); at != json.end() && !at->is_null()) {
      codes_ = open_stored_codes(*at, file, weights_);
      all = codes_->tensors();
      json.erase(at);  // what is read from here is not quantized any more
      json_ = json.dump(2) + "\n";
    } else {
      for (const SafetensorsTensor& tensor : weights_->tensors())
        all.push_back({tensor.name, tensor.shape});
    }
    std::vector<SourceTensor> stored;
    for (const SourceTensor& tensor : all) {
      if (is_buffer(tensor.name)) continue;
      if (tensor.name == "lm_head.weight" && config_.tied_head) {
        check_tied();
        continue;
      }
      stored.push_back(tensor);
    }
    tensors_ = match_tensors(config_, directory, stored);
    take_dtype();
  }

  const std::string& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  std::string config_json() const override { return json_; }

  void read(const std::string& name, float* out) const override {
    if (codes_ && codes_->is_quantized(name)) return codes_->read_values(name, out);
    const SafetensorsTensor* tensor = weights_->find(name);
    if (!tensor) internal_error("{}: no tensor {}", path_, name);
    weights_->read_floats(*tensor, 0, tensor->shape.count(), out);
    check_finite(path_, name, out, tensor->shape.count());
  }

  QuantPlan quantization() const override { return codes_ ? codes_->plan() : QuantPlan{}; }
  QuantizedMatrix read_codes(const std::string& name) const override { return codes_->read(name); }
  StaticGrid static_activation(const std::string& linear) const override {
    return codes_->static_activation(linear);
  }

 private:
  // Some writers store the tied head a second time; another matrix there would be lost silently.
  void check_tied() const {
    const SafetensorsTensor* head = weights_->find("lm_head.weight");
    const SafetensorsTensor* embedding = weights_->find("model.embed_tokens.weight");
    if (head && embedding && embedding->type == head->type && embedding->shape == head->shape &&
        std::memcmp(weights_->data(*embedding), weights_->data(*head), head->bytes) == 0)
      return;
    refuse(
        "{}: tie_word_embeddings is true, but lm_head.weight differs from "
        "model.embed_tokens.weight",
        path_);
  }

  // What is stored counts, whatever config.json says.
  void take_dtype() {
    for (const SourceTensor& tensor : tensors_) {
      if (codes_ && codes_->is_quantized(tensor.name)) continue;
      const StoredType type = weights_->find(tensor.name)->type;
      if (type != StoredType::f32 && type != StoredType::f16 && type != StoredType::bf16)
        refuse("{}: tensor {} has dtype {}, expected F32, F16 or BF16", path_, tensor.name,
               name_of(type));
    }
    switch (weights_->find("model.layers.0.input_layernorm.weight")->type) {
      case StoredType::f16:
        config_.dtype = "float16";
        break;
      case StoredType::bf16:
        config_.dtype = "bfloat16";
        break;
      default:
        config_.dtype = "float32";
    }
  }

  std::string path_, json_;
  ModelConfig config_;
  std::shared_ptr<const Safetensors> weights_;
  std::unique_ptr<StoredCodes> codes_;  // when the linears are stored as codes
  std::vector<SourceTensor> tensors_;
};

}  // namespace

std::unique_ptr<ModelSource> open_huggingface(const std::string& directory) {
  return std::make_unique<HuggingFaceSource>(directory);
}

}  // namespace qat
