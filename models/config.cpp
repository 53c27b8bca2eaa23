#include "models/config.h"

#include "models/source.h"

namespace qat {

int64_t ModelConfig::parameters() const {
  int64_t count = 0;
  for (const SourceTensor& tensor : expected_tensors(*this)) count += tensor.shape.count();
  return count;
}

std::vector<SourceTensor> expected_tensors(const ModelConfig& config) {
  std::vector<SourceTensor> tensors;
  const auto add = [&](std::string name, Shape shape) {
    tensors.push_back({std::move(name), shape});
  };
  const int64_t C = config.hidden, Q = config.q_width(), K = config.kv_width(), F = config.ffn;
  add("model.embed_tokens.weight", {config.vocab, C});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    const auto linear = [&](const char* name, int64_t out, int64_t in, bool bias) {
      add(at + name + ".weight", {out, in});
      if (bias) add(at + name + ".bias", {out});
    };
    add(at + "input_layernorm.weight", {C});
    linear("self_attn.q_proj", Q, C, config.qkv_bias);
    linear("self_attn.k_proj", K, C, config.qkv_bias);
    linear("self_attn.v_proj", K, C, config.qkv_bias);
    if (config.qk_norm) {
      add(at + "self_attn.q_norm.weight", {config.head_dim});
      add(at + "self_attn.k_norm.weight", {config.head_dim});
    }
    linear("self_attn.o_proj", C, Q, config.o_bias);
    add(at + "post_attention_layernorm.weight", {C});
    linear("mlp.gate_proj", F, C, config.mlp_bias);
    linear("mlp.up_proj", F, C, config.mlp_bias);
    linear("mlp.down_proj", C, F, config.mlp_bias);
  }
  add("model.norm.weight", {C});
  if (!config.tied_head) add("lm_head.weight", {config.vocab, C});
  return tensors;
}

}  // namespace qat
