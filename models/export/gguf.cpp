#include "models/export/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/gguf.h"
#include "engine/io/gguf_codes.h"
#include "engine/io/gguf_write.h"
#include "kernels/float_types.h"
#include "models/export/gguf_metadata.h"
#include "models/export/staged_directory.h"
#include "models/export/verify.h"
#include "models/families.h"
#include "models/gguf_names.h"
#include "models/source_kinds.h"
#include "models/tokenizer/gguf_keys.h"

namespace qat {
namespace {

constexpr const char* kDivisors = "rope_freqs.weight";

// The block type that holds codes of a grid.
GgufType code_type(const QuantSpec& spec) {
  if (spec.form == Form::q4_k) return GgufType::q4_k;
  if (spec.form == Form::q6_k) return GgufType::q6_k;
  if (spec.has_minimum()) return GgufType::q4_1;
  if (spec.bits == 5) return GgufType::q5_0;
  return spec.bits <= 4 ? GgufType::q4_0 : GgufType::q8_0;
}

void check_grid(const std::string& name, const QuantSpec& spec, int64_t columns) {
  if (spec.form == Form::e4m3)
    refuse("gguf export: {}: no type there holds float8 codes; take a gguf preset", name);
  if (!spec.symmetric() && !spec.has_minimum())
    refuse(
        "gguf export: {}: its zero points have no form there; set quantize.weights.offset: minimum",
        name);
  if (spec.has_minimum() && spec.bits != 4)
    refuse("gguf export: {}: codes of {} bits that count from a minimum have no form there; 4 have",
           name, spec.bits);
  if (spec.scale_type != ScaleType::f16 && spec.scale_type != ScaleType::portable)
    refuse("gguf export: {}: scales are stored as f16; set quantize.weights.scale_type: f16", name);
  const CodeLayout layout = code_layout(code_type(spec));
  if (columns % layout.elements != 0 || (spec.per == Per::group && spec.group % layout.group != 0))
    refuse(
        "gguf export: {}: rows of {} (groups of {}) do not divide into blocks of {}; exclude it, "
        "or "
        "take a gguf or portable preset, which leave such matrices unquantized",
        name, columns, spec.per == Per::group ? spec.group : columns, layout.elements);
}

// How a file stores real numbers.
std::vector<std::byte> stored_floats(GgufType type, const float* values, int64_t count) {
  const size_t width = type == GgufType::f32 ? 4 : 2;
  std::vector<std::byte> bytes(size_t(count) * width);
  if (type == GgufType::f32) {
    std::memcpy(bytes.data(), values, bytes.size());
    return bytes;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits =
        type == GgufType::f16 ? to_float16(values[i]).bits : to_bfloat16(values[i]).bits;
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return bytes;
}

class Writer {
 public:
  Writer(const ExportModel& model, const ModelConfig& config, const GgufOptions& options)
      : model_(model),
        config_(config),
        options_(options),
        permutes_(find_family(config.architecture)->rotates_neighbours_in_gguf),
        divisors_(rope_divisors(config)) {
    if (!divisors_.empty())
      entries_.push_back({kDivisors, GgufType::f32, {int64_t(divisors_.size())}});
    std::map<GgufType, int64_t> elements;
    for (const ExportTensor& tensor : model.tensors) {
      const GgufType type = type_of(tensor);
      entries_.push_back({gguf_name(tensor.name), type, tensor.shape});
      tensors_[entries_.back().name] = &tensor;
      if (tensor.shape.rank() == 2 && tensor.name.find(".layers.") != std::string::npos)
        elements[type] += tensor.shape.count();
    }
    type_ = std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) {
              return a.second < b.second;
            })->first;
  }

  std::string file_name() const {
    return fmt::format("{}-{}.gguf", options_.name, gguf_block(uint32_t(type_))->name);
  }

  /// Returns the path of the first file.
  std::string write(const std::string& path) {
    std::vector<GgufKey> keys = model_keys(config_, options_.name, type_);
    std::vector<GgufKey> tokens = tokenizer_keys(options_.tokenizer, config_);
    std::move(tokens.begin(), tokens.end(), std::back_inserter(keys));
    const auto contents = [this](const GgufEntry& entry, const GgufSink& sink) {
      if (entry.name == kDivisors) return sink(divisors_.data(), divisors_.size() * 4);
      const ExportTensor& tensor = *tensors_.at(entry.name);
      if (holds_codes(entry.type))
        write_codes(entry, tensor, sink);
      else
        write_floats(entry, tensor, sink);
    };
    if (options_.max_file_bytes > 0)
      return write_gguf_split(path, keys, entries_, options_.max_file_bytes, contents);
    write_gguf(path, keys, entries_, contents);
    return path;
  }

  /// "" or what differs first from what was trained.
  std::string difference_of(const std::string& path) const {
    const auto source = ModelSource::open(path);
    const auto file = GgufFile::open(path);
    std::vector<float> expected, found;
    for (const GgufEntry& entry : entries_) {
      const auto at = tensors_.find(entry.name);
      if (at == tensors_.end()) continue;  // the divisors: part of the configuration
      const ExportTensor& tensor = *at->second;
      expected.resize(size_t(tensor.shape.count()));
      found.resize(expected.size());
      model_.floats(tensor, expected.data());
      source->read(tensor.name, found.data());
      if (!holds_codes(entry.type)) {
        const auto bytes = stored_floats(entry.type, expected.data(), tensor.shape.count());
        decode_blocks(entry.type, bytes.data(), tensor.shape.count(), expected.data());
      }
      for (size_t i = 0; i < expected.size(); ++i)
        if (expected[i] != found[i])
          return fmt::format("{}: element {} is {}, not {}", tensor.name, i, found[i], expected[i]);
    }
    return difference_of_configuration(*source, *file);
  }

 private:
  GgufType type_of(const ExportTensor& tensor) {
    if (tensor.quantized()) return code_type(*tensor.quant.weight);
    if (tensor.shape.rank() < 2) return GgufType::f32;
    values_.resize(size_t(tensor.shape.count()));
    model_.floats(tensor, values_.data());
    bool f16 = true, bf16 = true, fits = true;
    for (const float value : values_) {
      f16 = f16 && to_float(to_float16(value)) == value;
      bf16 = bf16 && to_float(to_bfloat16(value)) == value;
      fits = fits && std::isfinite(to_float(to_float16(value)));
    }
    return f16 || (!bf16 && fits) ? GgufType::f16 : GgufType::bf16;
  }

  // The Hugging Face row that stands in row `row` of the file.
  int64_t source_row(const ExportTensor& tensor, int64_t row) const {
    return permutes_ && is_rotated(tensor.name) ? rotated_row(row, config_.head_dim) : row;
  }

  void write_codes(const GgufEntry& entry, const ExportTensor& tensor, const GgufSink& sink) {
    const QuantizedMatrix m = model_.codes(tensor);
    check_matrix(m, "gguf export: " + tensor.name);
    const CodeLayout layout = code_layout(entry.type);
    const int64_t rows = m.shape[0], columns = m.shape[1], blocks = columns / layout.elements;
    const int64_t bytes = gguf_block(uint32_t(entry.type))->bytes;
    std::vector<std::byte> line(size_t(blocks * bytes));
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t from = source_row(tensor, row);
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = b * layout.elements;
        float scales[kMostGroups] = {}, minima[kMostGroups] = {};
        for (int64_t g = 0; g < layout.groups(); ++g) {
          const size_t at = m.scale_index(from, first + g * layout.group);
          scales[g] = m.scales[at];
          if (m.spec.has_minimum()) minima[g] = m.zeros[at];
        }
        if (!pack_block(entry.type, m.codes.data() + from * columns + first, scales, minima,
                        line.data() + b * bytes))
          internal_error("gguf export: {}: {} cannot hold the scales of row {}", tensor.name,
                         gguf_type_name(uint32_t(entry.type)), from);
      }
      sink(line.data(), line.size());
    }
  }

  void write_floats(const GgufEntry& entry, const ExportTensor& tensor, const GgufSink& sink) {
    values_.resize(size_t(tensor.shape.count()));
    model_.floats(tensor, values_.data());
    const int64_t width = tensor.shape.rank() == 1 ? 1 : tensor.shape.cols();
    for (int64_t row = 0; row < tensor.shape.count() / width; ++row) {
      const float* from = values_.data() + source_row(tensor, row) * width;
      const auto bytes = stored_floats(entry.type, from, width);
      sink(bytes.data(), bytes.size());
    }
  }

  std::string difference_of_configuration(const ModelSource& source, const GgufFile& file) const {
    const ModelConfig& c = source.config();
    const auto same = [](double a, double b) { return float(a) == float(b); };
    if (c.heads != config_.heads || c.kv_heads != config_.kv_heads ||
        c.head_dim != config_.head_dim || c.tied_head != config_.tied_head ||
        !same(c.norm_eps, config_.norm_eps) || !same(c.rope_theta, config_.rope_theta))
      return "the configuration reads back differently";
    std::vector<float> stored(divisors_.size());
    if (!divisors_.empty()) file.read_rows(*file.find(kDivisors), 0, 1, stored.data());
    if (stored != divisors_) return "the rotary divisors read back differently";
    if (c.rope_scaling == RopeScaling::linear && !same(c.rope_factor, config_.rope_factor))
      return "the rotary scaling reads back differently";
    if (!options_.tokenizer) return "";
    const auto tokenizer = Tokenizer::open(file.path());
    for (const char* text : kProbes)
      if (tokenizer->encode_with_special(text) != options_.tokenizer->encode_with_special(text))
        return fmt::format("the tokenizer gives other ids for \"{}\"", text);
    if (tokenizer->chat_template() != options_.tokenizer->chat_template())
      return "the chat template reads back differently";
    return "";
  }

  // Letters, digits, contractions, white space, code, several scripts.
  static constexpr const char* kProbes[] = {
      "Hello, world!  It's 12345 o'clock;\n\n\tI'LL see you in 2026.",
      "def f(x):\n    return x**2  # caf\u00e9 \u4f60\u597d \U0001F600 \u0440\u0443\u0441",
      "two  spaces, trailing ones  "};

  const ExportModel& model_;
  const ModelConfig& config_;
  const GgufOptions& options_;
  bool permutes_;
  std::vector<float> divisors_;
  std::vector<GgufEntry> entries_;
  std::map<std::string, const ExportTensor*> tensors_;
  std::vector<float> values_;
  GgufType type_ = GgufType::f16;
};

// Biases that llama.cpp's graph of the architecture does not read.
void check_biases(const ModelConfig& c) {
  const std::string architecture = find_family(c.architecture)->gguf_architecture;
  if (architecture != "llama" && c.o_bias)
    refuse("gguf export: llama.cpp's {} has no bias on the attention's output", architecture);
  if (architecture == "qwen3" && c.qkv_bias)
    refuse("gguf export: llama.cpp's qwen3 has no biases on q, k and v");
}

}  // namespace

void check_gguf_export(const ModelConfig& config, const QuantPlan& plan,
                       const Tokenizer* tokenizer) {
  check_biases(config);
  tokenizer_keys(tokenizer, config);
  if (tokenizer) warn_about_added_tokens(*tokenizer);
  const auto widths = expected_tensors(config);
  for (const SourceTensor& tensor : widths) {
    if (!tensor.name.ends_with(".weight")) continue;
    const auto found = plan.linears.find(tensor.name.substr(0, tensor.name.rfind('.')));
    if (found != plan.linears.end() && found->second.weight)
      check_grid(tensor.name, *found->second.weight, tensor.shape.cols());
  }
}

std::string export_gguf(const std::string& directory, const ExportModel& model,
                        const GgufOptions& options) {
  const ModelConfig config = check_export(model, "gguf");
  check_biases(config);
  for (const ExportTensor& tensor : model.tensors)
    if (tensor.quantized()) check_grid(tensor.name, *tensor.quant.weight, tensor.shape.cols());
  StagedDirectory staged(directory);
  Writer writer(model, config, options);
  const std::string path = writer.write(staged.path() + "/" + writer.file_name());
  verify_or_keep(staged, [&] {
    const std::string difference = writer.difference_of(path);
    return difference.empty() && model.check ? model.check(path) : difference;
  });
  staged.commit();
  return directory + path.substr(path.rfind('/'));
}

}  // namespace qat
