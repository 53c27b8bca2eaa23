// The configuration out of GGUF metadata: llama.cpp's keys, under the architecture's name.
#include <cmath>
#include <set>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/families.h"

namespace qat {
namespace {

const std::set<std::string_view> kUnderstood = {"context_length",
                                                "embedding_length",
                                                "block_count",
                                                "feed_forward_length",
                                                "attention.head_count",
                                                "attention.head_count_kv",
                                                "attention.key_length",
                                                "attention.value_length",
                                                "attention.layer_norm_rms_epsilon",
                                                "rope.freq_base",
                                                "rope.dimension_count",
                                                "rope.scaling.type",
                                                "rope.scaling.factor",
                                                "rope.scaling.original_context_length",
                                                "rope.scaling.finetuned",
                                                "rope.scale_linear",
                                                "vocab_size"};

bool neutral(const GgufValue& value) {
  if (const auto* v = std::get_if<uint64_t>(&value)) return *v == 0;
  if (const auto* v = std::get_if<int64_t>(&value)) return *v == 0;
  if (const auto* v = std::get_if<double>(&value)) return *v == 0.0;
  if (const auto* v = std::get_if<bool>(&value)) return !*v;
  return false;
}

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  ModelConfig read() {
    const std::string* architecture = file_.string("general.architecture");
    if (!architecture) refuse("{}: metadata key general.architecture is missing", file_.path());
    const Family* family = find_gguf_family(*architecture);
    if (!family)
      refuse("{}: general.architecture is \"{}\", expected llama, qwen2 or qwen3", file_.path(),
             printable(*architecture));
    prefix_ = *architecture + ".";
    refuse_unknown();

    ModelConfig c;
    c.architecture = family->model_type;
    c.hidden = size("embedding_length");
    c.ffn = size("feed_forward_length");
    c.layers = size("block_count");
    c.heads = size("attention.head_count");
    c.kv_heads = file_.integer(prefix_ + "attention.head_count_kv", c.heads);
    c.head_dim = head_dim(c);
    c.max_positions = size("context_length");
    if (!has("attention.layer_norm_rms_epsilon"))
      refuse("{}: metadata key {}attention.layer_norm_rms_epsilon is missing", file_.path(),
             prefix_);
    c.norm_eps = float(file_.number(prefix_ + "attention.layer_norm_rms_epsilon", 0));
    c.vocab = vocabulary();
    c.tied_head = !file_.find("output.weight");
    c.qkv_bias = file_.find("blk.0.attn_q.bias") != nullptr;
    c.o_bias = file_.find("blk.0.attn_output.bias") != nullptr;
    c.mlp_bias = file_.find("blk.0.ffn_up.bias") != nullptr;
    c.qk_norm = family->qk_norm;
    rope(c);
    c.bos_id = token("tokenizer.ggml.bos_token_id");
    c.pad_id = token("tokenizer.ggml.padding_token_id");
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
      if (const int64_t id = token(key); id >= 0 && (c.eos_ids.empty() || c.eos_ids.front() != id))
        c.eos_ids.push_back(id);
    c.dtype = dtype();
    check_config(c, file_.path());
    rope_divisors(c);
    return c;
  }

 private:
  bool has(const char* key) const {
    return file_.metadata().find(prefix_ + key) != file_.metadata().end();
  }
  int64_t size(const char* key) const {
    if (!has(key)) refuse("{}: metadata key {}{} is missing", file_.path(), prefix_, key);
    return file_.integer(prefix_ + key, 0);
  }
  int64_t token(const char* key) const {
    const int64_t id = file_.integer(key, -1);
    return id == 0xFFFFFFFF ? -1 : id;  // llama.cpp's "none" written as u32
  }

  void refuse_unknown() const {
    for (const auto& [key, value] : file_.metadata()) {
      if (!key.starts_with(prefix_)) continue;
      const std::string name = key.substr(prefix_.size());
      if (kUnderstood.contains(name) || neutral(value)) continue;
      const bool* causal = std::get_if<bool>(&value);
      if (name == "attention.causal" && causal && *causal) continue;
      refuse("{}: metadata key {} is not understood and may change what the model computes",
             file_.path(), printable(key));
    }
  }

  int64_t head_dim(const ModelConfig& c) const {
    if (c.heads < 1 || (!has("attention.key_length") && c.hidden % c.heads != 0))
      refuse(
          "{}: {} heads do not divide a hidden size of {}, and {}attention.key_length is missing",
          file_.path(), c.heads, c.hidden, prefix_);
    const int64_t d = file_.integer(prefix_ + "attention.key_length", c.hidden / c.heads);
    const int64_t value = file_.integer(prefix_ + "attention.value_length", d);
    if (value != d)
      refuse("{}: {}attention.value_length {} differs from the key length {}", file_.path(),
             prefix_, value, d);
    const int64_t rotated = file_.integer(prefix_ + "rope.dimension_count", d);
    if (rotated != d)
      refuse("{}: {}rope.dimension_count is {}, only whole heads of {} are rotated", file_.path(),
             prefix_, rotated, d);
    return d;
  }

  int64_t vocabulary() const {
    const GgufTensor* embedding = file_.find("token_embd.weight");
    if (!embedding) refuse("{}: tensor token_embd.weight is missing", file_.path());
    const int64_t rows = embedding->shape.rows();
    const int64_t said = file_.integer(prefix_ + "vocab_size", rows);
    if (said != rows)
      refuse("{}: {}vocab_size is {}, token_embd.weight has {} rows", file_.path(), prefix_, said,
             rows);
    return rows;
  }

  void rope(ModelConfig& c) const {
    c.rope_theta = shortest(file_.number(prefix_ + "rope.freq_base", 10000.0));
    const std::string* type = file_.string(prefix_ + "rope.scaling.type");
    double factor = file_.number(prefix_ + "rope.scaling.factor", 0.0);
    if (!type) {
      if (factor == 0.0) factor = file_.number(prefix_ + "rope.scale_linear", 0.0);
      if (factor == 0.0 || factor == 1.0) return;
    } else if (*type == "none") {
      return;
    } else if (*type != "linear") {
      refuse("{}: {}rope.scaling.type is \"{}\"; none and linear are computed", file_.path(),
             prefix_, printable(*type));
    }
    c.rope_scaling = RopeScaling::linear;
    c.rope_factor = factor;
  }

  // A file keeps f32; 100000 or 500000 read back as they were meant either way.
  static double shortest(double value) { return std::stod(fmt::format("{}", float(value))); }

  // Llama 3's scaling is stored as its result. The parameters are found again (and preferred: a
  // config.json can say them), else the divisors are kept as they are.
  void rope_divisors(ModelConfig& c) const {
    const GgufTensor* tensor = file_.find("rope_freqs.weight");
    if (!tensor) return;
    if (tensor->shape.count() != c.head_dim / 2)
      refuse("{}: rope_freqs.weight has {} values, expected {}", file_.path(),
             tensor->shape.count(), c.head_dim / 2);
    std::vector<float> divisors(size_t(c.head_dim / 2));
    file_.read_rows(*tensor, 0, 1, divisors.data());
    float most = 0.0f;
    bool all_one = true;
    for (float divisor : divisors) {
      if (!(divisor > 0.0f) || !std::isfinite(divisor))
        refuse("{}: rope_freqs.weight holds {}, expected positive numbers", file_.path(), divisor);
      most = std::max(most, divisor);
      all_one = all_one && divisor == 1.0f;
    }
    if (all_one) return;
    if (c.rope_scaling != RopeScaling::none)
      refuse("{}: both rope_freqs.weight and a linear rope scaling", file_.path());
    for (const int64_t original : {8192, 4096, 2048, 16384, 32768, 131072})
      if (matches_llama3(c, divisors, most, original)) {
        c.rope_scaling = RopeScaling::llama3;
        c.rope_factor = most;
        c.rope_low_freq_factor = 1.0;
        c.rope_high_freq_factor = 4.0;
        c.rope_original_positions = original;
        return;
      }
    c.rope_freq_divisors = std::move(divisors);
  }

  // Formula: transformers, modeling_rope_utils.py, _compute_llama3_parameters.
  static bool matches_llama3(const ModelConfig& c, const std::vector<float>& divisors,
                             double factor, int64_t original) {
    const double low = 1.0, high = 4.0, L = double(original);
    for (size_t i = 0; i < divisors.size(); ++i) {
      const double frequency = std::pow(c.rope_theta, -2.0 * double(i) / double(c.head_dim));
      const double wavelength = 2.0 * M_PI / frequency;
      double expected = factor;
      if (wavelength < L / high) {
        expected = 1.0;
      } else if (wavelength <= L / low) {
        const double s = (L / wavelength - low) / (high - low);
        expected = 1.0 / ((1.0 - s) / factor + s);
      }
      if (std::abs(expected - divisors[i]) > 1e-5 * expected) return false;
    }
    return true;
  }

  std::string dtype() const {
    const GgufTensor* tensor = file_.find("blk.0.ffn_up.weight");
    if (tensor && tensor->type == 1) return "float16";
    if (tensor && tensor->type == 30) return "bfloat16";
    return "float32";
  }

  const GgufFile& file_;
  std::string prefix_;
};

}  // namespace

ModelConfig config_from_gguf(const GgufFile& file) {
  return Reader(file).read();
}

}  // namespace qat
