#include "recipes/run/scratch_model.h"

#include "models/families.h"

namespace qat {

ModelConfig scratch_config(const recipe::ModelOptions& options, int64_t vocabulary) {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden = options.hidden_size;
  config.ffn = options.intermediate_size;
  config.layers = options.num_hidden_layers;
  config.heads = options.num_attention_heads;
  config.kv_heads = options.num_key_value_heads;
  config.head_dim = options.head_dim;
  config.vocab = vocabulary;
  config.max_positions = options.max_position_embeddings;
  config.rope_theta = options.rope_theta;
  config.norm_eps = float(options.rms_norm_eps);
  config.tied_head = options.tie_word_embeddings;
  check_config(config, "model");
  return config;
}

}  // namespace qat
