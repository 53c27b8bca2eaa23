// A GGUF file seen as a Hugging Face model: names translated, q and k rows of llama put back into
// the rotate-half order.
#include <map>

#include "engine/core/error.h"
#include "engine/io/gguf.h"
#include "engine/io/gguf_blocks.h"
#include "engine/io/printable.h"
#include "models/families.h"
#include "models/gguf_names.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

class GgufSource : public ModelSource {
 public:
  explicit GgufSource(const std::string& path)
      : file_(GgufFile::open(path)), config_(config_from_gguf(*file_)) {
    std::vector<SourceTensor> stored;
    for (const GgufTensor& tensor : file_->tensors()) {
      if (tensor.name == "rope_freqs.weight") continue;  // part of the configuration
      const std::string name = huggingface_name(tensor.name);
      if (name.empty())
        refuse("{}: tensor {} is not one of a {} model", path, printable(tensor.name),
               config_.architecture);
      if (!gguf_block(tensor.type)->decodable)
        refuse(
            "{}: tensor {} has type {}, which is not read; F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
            "Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are",
            path, printable(tensor.name), gguf_type_name(tensor.type));
      stored.push_back({name, tensor.shape});
      by_name_[name] = &tensor;
    }
    tensors_ = match_tensors(config_, path, stored);
    permuted_ = find_family(config_.architecture)->rotates_neighbours_in_gguf;
  }

  const std::string& path() const override { return file_->path(); }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  std::string config_json() const override { return config_to_huggingface(config_); }

  void read(const std::string& name, float* out) const override {
    const auto at = by_name_.find(name);
    if (at == by_name_.end()) internal_error("{}: no tensor {}", path(), name);
    const GgufTensor& tensor = *at->second;
    if (permuted_ && is_rotated(name)) {
      std::vector<float> stored(size_t(tensor.shape.count()));
      file_->read_rows(tensor, 0, tensor.shape.rows(), stored.data());
      const int64_t width = tensor.shape.rank() == 1 ? 1 : tensor.shape.cols();
      unpermute_rows(stored.data(), tensor.shape.count() / width, width, config_.head_dim, out);
    } else {
      file_->read_rows(tensor, 0, tensor.shape.rows(), out);
    }
    check_finite(path(), name, out, tensor.shape.count());
  }

 private:
  std::shared_ptr<const GgufFile> file_;
  ModelConfig config_;
  std::map<std::string, const GgufTensor*> by_name_;
  std::vector<SourceTensor> tensors_;
  bool permuted_ = false;
};

}  // namespace

std::unique_ptr<ModelSource> open_gguf(const std::string& path) {
  return std::make_unique<GgufSource>(path);
}

}  // namespace qat
