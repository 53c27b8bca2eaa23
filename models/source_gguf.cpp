// A GGUF file seen as a Hugging Face model: names translated, q and k rows of llama put back into
// the rotate-half order; codes as they are stored, and the activations llama.cpp computes with.
#include <algorithm>
#include <map>
#include <optional>

#include "engine/core/error.h"
#include "engine/io/gguf.h"
#include "engine/io/gguf_blocks.h"
#include "engine/io/gguf_codes.h"
#include "engine/io/printable.h"
#include "models/decoder.h"
#include "models/families.h"
#include "models/gguf_names.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

QuantSpec blocks(int bits, int group, Range range, ScaleRule rule, ScaleType type) {
  return {bits, Per::group, group, range, rule, type, Division::stored};
}

// The grid of a type whose blocks are codes and numbers; nothing for the others.
std::optional<QuantSpec> weight_grid(GgufType type) {
  switch (type) {
    case GgufType::q8_0:
      return blocks(8, 32, Range::full, ScaleRule::amax, ScaleType::f16);
    case GgufType::q4_0:
      return blocks(4, 32, Range::full, ScaleRule::signed_max, ScaleType::f16);
    case GgufType::q4_1:
      return blocks(4, 32, Range::minimum, ScaleRule::min_max, ScaleType::f16);
    case GgufType::q5_0:
      return blocks(5, 32, Range::full, ScaleRule::signed_max, ScaleType::f16);
    case GgufType::q4_k:
      return q4_k_grid();
    case GgufType::q6_k:
      return q6_k_grid();
    default:
      return std::nullopt;
  }
}

// What ggml makes of the other factor of a product (type_traits_cpu's vec_dot_type): Q8_0 or Q8_1
// beside blocks of 32 (the same codes), Q8_K with f32 scales beside blocks of 256. 16-bit weights
// round it to their own type, which no grid says.
std::optional<QuantSpec> activation_grid(GgufType type) {
  const int64_t elements = gguf_block(uint32_t(type))->elements;
  if (elements == 1) return std::nullopt;
  const ScaleType scale = elements == 32 ? ScaleType::f16 : ScaleType::f32;
  QuantSpec spec = blocks(8, int(elements), Range::strict, ScaleRule::amax, scale);
  spec.division = Division::exact;
  return spec;
}

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

  QuantPlan quantization() const override {
    QuantPlan plan;
    for (const auto& [name, tensor] : by_name_) {
      if (tensor->shape.rank() != 2) continue;
      const std::string path = name.substr(0, name.rfind('.'));
      LinearQuant quant;
      quant.weight = weight_grid(GgufType(tensor->type));
      // Rows of the embedding are looked up, not multiplied, unless it is the head too.
      const bool table = path == kEmbeddingPath;
      if (!table) quant.activation = activation_grid(GgufType(tensor->type));
      if (quant.weight || quant.activation) plan.linears[path] = quant;
      if (table && config_.tied_head)
        if (const auto input = activation_grid(GgufType(tensor->type)))
          plan.linears[kHeadPath].activation = input;
    }
    return plan;
  }

  QuantizedMatrix read_codes(const std::string& name) const override {
    const auto at = by_name_.find(name);
    if (at == by_name_.end() || !weight_grid(GgufType(at->second->type)))
      return ModelSource::read_codes(name);
    const GgufTensor& tensor = *at->second;
    const auto type = GgufType(tensor.type);
    const CodeLayout layout = code_layout(type);
    const int64_t rows = tensor.shape.rows(), columns = tensor.shape.cols();
    const int64_t count = columns / layout.elements, bytes = gguf_block(tensor.type)->bytes;
    const int64_t groups = columns / layout.group;
    QuantizedMatrix m;
    m.spec = *weight_grid(type);
    m.shape = tensor.shape;
    m.codes.resize(size_t(rows * columns));
    m.scales.resize(size_t(rows * groups));
    if (layout.minimum) m.zeros.resize(m.scales.size());
    const std::byte* from = file_->data(tensor);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t to = permuted_ && is_rotated(name) ? rotated_row(row, config_.head_dim) : row;
      for (int64_t b = 0; b < count; ++b, from += bytes) {
        const int64_t group = to * groups + b * layout.groups();
        unpack_block(type, from, m.codes.data() + to * columns + b * layout.elements,
                     m.scales.data() + group, layout.minimum ? m.zeros.data() + group : nullptr);
      }
    }
    check_matrix(m, path() + ": " + name);
    return m;
  }

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
