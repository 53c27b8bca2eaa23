// The model families: how each spells its configuration, in Hugging Face's config.json and in GGUF
// metadata. Adding a family means one row in families.cpp and its names in the two readers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/io/gguf.h"
#include "engine/io/json.h"
#include "models/config.h"

namespace qat {

/// What tells a family from another, and what its class assumes when a key is absent.
struct Family {
  const char* model_type;         ///< Hugging Face
  const char* class_name;         ///< of config.json's "architectures"
  const char* gguf_architecture;  ///< what its GGUF files are called (mistral's are llama's)
  bool always_qkv_bias;
  bool attention_bias_key;  ///< attention_bias adds biases to q, k, v and o
  bool mlp_bias_key;
  bool qk_norm;
  bool rotates_neighbours_in_gguf;  ///< q and k rows are permuted in GGUF
  int64_t default_max_positions;
  int64_t default_head_dim;  ///< 0 = hidden / heads
};

/// nullptr if there is none of this model_type.
const Family* find_family(std::string_view model_type);
/// The family a GGUF architecture is read as; nullptr if there is none.
const Family* find_gguf_family(std::string_view architecture);
/// "llama, mistral, qwen2, qwen3".
std::string family_names();

/// Reads config.json (torch_dtype or dtype; rope_theta and rope_scaling, or rope_parameters).
/// Refuses by name, with `file` in front, every key that is not known and not neutral.
ModelConfig config_from_huggingface(const Json& json, const std::string& file);

/// Keys of a config.json that passed although nobody knows them, since their value is neutral:
/// "use_mup = false".
std::vector<std::string> unknown_keys(const Json& json);

/// Reads GGUF metadata (and rope_freqs.weight); refuses as above.
ModelConfig config_from_gguf(const GgufFile& file);

/// A config.json text that transformers loads as this model. Refuses what it cannot say there.
std::string config_to_huggingface(const ModelConfig& config);

/// Refuses sizes that cannot be: zero, too large, heads that do not divide, a bad rope base, ...
void check_config(const ModelConfig& config, const std::string& file);

}  // namespace qat
