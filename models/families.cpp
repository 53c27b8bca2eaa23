#include "models/families.h"

#include <cmath>

#include "engine/core/error.h"

namespace qat {
namespace {

// Defaults are those of the classes in transformers (configuration_<model_type>.py).
constexpr Family kFamilies[] = {
    {.model_type = "llama",
     .class_name = "LlamaForCausalLM",
     .gguf_architecture = "llama",
     .always_qkv_bias = false,
     .attention_bias_key = true,
     .mlp_bias_key = true,
     .qk_norm = false,
     .rotates_neighbours_in_gguf = true,
     .default_max_positions = 2048,
     .default_head_dim = 0},
    {.model_type = "mistral",
     .class_name = "MistralForCausalLM",
     .gguf_architecture = "llama",
     .always_qkv_bias = false,
     .attention_bias_key = false,
     .mlp_bias_key = false,
     .qk_norm = false,
     .rotates_neighbours_in_gguf = true,
     .default_max_positions = 131072,
     .default_head_dim = 0},
    {.model_type = "qwen2",
     .class_name = "Qwen2ForCausalLM",
     .gguf_architecture = "qwen2",
     .always_qkv_bias = true,
     .attention_bias_key = false,
     .mlp_bias_key = false,
     .qk_norm = false,
     .rotates_neighbours_in_gguf = false,
     .default_max_positions = 32768,
     .default_head_dim = 0},
    {.model_type = "qwen3",
     .class_name = "Qwen3ForCausalLM",
     .gguf_architecture = "qwen3",
     .always_qkv_bias = false,
     .attention_bias_key = true,
     .mlp_bias_key = false,
     .qk_norm = true,
     .rotates_neighbours_in_gguf = false,
     .default_max_positions = 32768,
     .default_head_dim = 128},
};

}  // namespace

const Family* find_family(std::string_view model_type) {
  for (const Family& family : kFamilies)
    if (model_type == family.model_type) return &family;
  return nullptr;
}

const Family* find_gguf_family(std::string_view architecture) {
  for (const Family& family : kFamilies)
    if (architecture == family.gguf_architecture) return &family;
  return nullptr;
}

std::string family_names() {
  std::string names;
  for (const Family& family : kFamilies)
    names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  return names;
}

void check_config(const ModelConfig& c, const std::string& file) {
  const auto within = [&](const char* what, int64_t value, int64_t most) {
    if (value < 1 || value > most)
      refuse("{}: {} is {}, expected 1 to {}", file, what, value, most);
  };
  within("the number of layers", c.layers, 4096);
  within("the hidden size", c.hidden, 1 << 20);
  within("the MLP size", c.ffn, 1 << 22);
  within("the vocabulary size", c.vocab, 1 << 24);
  within("the number of attention heads", c.heads, 1 << 14);
  within("the number of key/value heads", c.kv_heads, 1 << 14);
  within("the head size", c.head_dim, 1 << 14);
  within("the number of positions", c.max_positions, int64_t(1) << 32);
  if (c.heads % c.kv_heads != 0)
    refuse("{}: {} attention heads do not divide among {} key/value heads", file, c.heads,
           c.kv_heads);
  if (c.head_dim % 2 != 0)
    refuse("{}: head size {} is odd; rotary positions need pairs", file, c.head_dim);
  if (!(c.norm_eps >= 0.0f) || c.norm_eps > 1.0f)
    refuse("{}: the norm's epsilon is {}, expected 0 to 1", file, c.norm_eps);
  if (!(c.rope_theta > 0.0) || !std::isfinite(c.rope_theta))
    refuse("{}: rope_theta is {}, expected a positive number", file, c.rope_theta);
  if (c.rope_scaling != RopeScaling::none &&
      (!(c.rope_factor > 0.0) || !std::isfinite(c.rope_factor)))
    refuse("{}: the rope factor is {}, expected a positive number", file, c.rope_factor);
  if (c.rope_scaling == RopeScaling::llama3) {
    if (!(c.rope_low_freq_factor > 0.0) || !(c.rope_high_freq_factor > c.rope_low_freq_factor) ||
        !std::isfinite(c.rope_high_freq_factor))
      refuse("{}: rope low_freq_factor {} and high_freq_factor {}: expected 0 < low < high", file,
             c.rope_low_freq_factor, c.rope_high_freq_factor);
    within("rope original_max_position_embeddings", c.rope_original_positions, int64_t(1) << 32);
  }
  if (c.sliding_window) within("sliding_window", *c.sliding_window, int64_t(1) << 32);
  const auto token = [&](const char* what, int64_t id) {
    if (id < -1 || id >= c.vocab)
      refuse("{}: {} is {}, the vocabulary has {} tokens", file, what, id, c.vocab);
  };
  token("bos_token_id", c.bos_id);
  token("pad_token_id", c.pad_id);
  for (int64_t id : c.eos_ids) token("eos_token_id", id);
}

}  // namespace qat
