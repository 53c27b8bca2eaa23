// The configuration of one decoder-only model. Families differ by fields, not by subclass.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qat {

enum class RopeScaling { none, linear, llama3 };

struct ModelConfig {
  std::string architecture = "llama";  ///< llama, mistral, qwen2, qwen3 (Hugging Face model_type)
  int64_t hidden = 0, ffn = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  int64_t max_positions = 2048;
  float norm_eps = 1e-5f;
  bool tied_head = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;  ///< RMS norm of each q and k head (Qwen3)
  double rope_theta = 10000.0;
  RopeScaling rope_scaling = RopeScaling::none;
  double rope_factor = 1.0, rope_low_freq_factor = 1.0, rope_high_freq_factor = 4.0;
  int64_t rope_original_positions = 8192;
  /// Rope divisors given explicitly (GGUF rope_freqs.weight), head_dim/2 of them; else empty.
  std::vector<float> rope_freq_divisors;
  /// Transforms (op hadamard) that rotated weights count on: of the inputs of every down_proj, and
  /// of the heads of q and k after RoPE (see models/rotate.h).
  bool online_down = false, online_keys = false;
  std::optional<int64_t> sliding_window;  ///< tokens; none = full attention
  int64_t bos_id = -1, pad_id = -1;
  std::vector<int64_t> eos_ids;
  std::string dtype = "float32";  ///< of the source's weights, as Hugging Face names it

  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  /// Trainable parameters (a tied head counts once).
  int64_t parameters() const;
};

}  // namespace qat
