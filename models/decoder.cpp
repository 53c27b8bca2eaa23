#include "models/decoder.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "engine/core/error.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

// Legend: T tokens, C hidden, H*D query width, G*D key/value width, F ffn, V vocabulary.
class Decoder {
 public:
  Decoder(Builder& b, const ModelConfig& config, const DecoderBuild& build)
      : b_(b), config_(config), build_(build), scope_(b, trimmed(build.prefix)) {}

  Id hidden() {
    const Id tokens = b_.input(kTokens, {build_.tokens()}, DType::i32);
    make_inputs();
    Builder::Scope model(b_, "model");
    return blocks_from(embedded(tokens), 0);
  }

  Id hidden_from(Id x, int64_t first) {
    make_inputs();
    Builder::Scope model(b_, "model");
    return blocks_from(x, first);
  }

  Id embedding_alone() {
    const Id tokens = b_.input(kTokens, {build_.tokens()}, DType::i32);
    Builder::Scope model(b_, "model");
    return embedded(tokens);
  }

  Id layer_alone(Id x, int layer) {
    make_inputs();
    Builder::Scope model(b_, "model");
    return block(x, layer);
  }

  Id head() {
    const char* name = config_.tied_head ? "model.embed_tokens" : "lm_head";
    return cast(b_, matrix(name, config_.vocab, config_.hidden), build_.dtype);
  }

 private:
  static std::string trimmed(std::string prefix) {
    if (!prefix.empty()) prefix.pop_back();
    return prefix;
  }

  void make_inputs() {
    const int64_t T = build_.tokens();
    positions_ = b_.input(kPositions, {T}, DType::i32);
    if (build_.cache)
      length_ = b_.input(kCacheLength, {1}, DType::i32);
    else
      first_ = b_.input(kFirst, {T}, DType::i32);
    table_ =
        b_.state(build_.prefix + kRopeTable, {config_.max_positions, config_.head_dim}, DType::f32);
  }

  Id embedded(Id tokens) {
    Builder::Scope scope(b_, "embed_tokens");
    const Id table = matrix("model.embed_tokens", config_.vocab, config_.hidden);
    return embedding(b_, table, tokens, build_.dtype);
  }

  Id blocks_from(Id x, int64_t first) {
    for (int64_t layer = first; layer < config_.layers; ++layer) x = block(x, int(layer));
    return rms_norm(b_, x, vector("model.norm.weight", config_.hidden), config_.norm_eps);
  }

  Id block(Id x, int layer) {
    const std::string name = "model.layers." + std::to_string(layer);
    Builder::Scope scope(b_, "layers." + std::to_string(layer), layer);
    Id h =
        rms_norm(b_, x, vector(name + ".input_layernorm.weight", config_.hidden), config_.norm_eps);
    x = add(b_, x, self_attention(h, name + ".self_attn", layer));
    h = rms_norm(b_, x, vector(name + ".post_attention_layernorm.weight", config_.hidden),
                 config_.norm_eps);
    return add(b_, x, mlp(h, name + ".mlp"));
  }

  Id self_attention(Id h, const std::string& name, int layer) {
    Builder::Scope scope(b_, "self_attn");
    const bool bias = config_.qkv_bias;
    Id q = projection(h, name, "q_proj", config_.q_width(), config_.hidden, bias);
    Id k = projection(h, name, "k_proj", config_.kv_width(), config_.hidden, bias);
    const Id v = projection(h, name, "v_proj", config_.kv_width(), config_.hidden, bias);
    if (config_.qk_norm) {
      q = rms_norm(b_, q, vector(name + ".q_norm.weight", config_.head_dim), config_.norm_eps);
      k = rms_norm(b_, k, vector(name + ".k_norm.weight", config_.head_dim), config_.norm_eps);
    }
    q = rope(b_, q, positions_, table_, int(config_.head_dim));
    k = rope(b_, k, positions_, table_, int(config_.head_dim));
    if (config_.online_keys) {
      q = hadamard(b_, q, config_.head_dim);
      k = hadamard(b_, k, config_.head_dim);
    }
    const AttentionShape shape{int(config_.heads), int(config_.kv_heads), int(config_.head_dim),
                               build_.sequence, float(1.0 / std::sqrt(double(config_.head_dim)))};
    Id y;
    if (build_.cache) {
      const Shape cache{*build_.cache, config_.kv_width()};
      const std::string slot = build_.prefix + "cache." + std::to_string(layer);
      y = attention_cached(
          b_, q, k, v, length_,
          {b_.state(slot + ".k", cache, build_.dtype), b_.state(slot + ".v", cache, build_.dtype)},
          shape);
    } else {
      y = attention(b_, q, k, v, first_, shape);
    }
    return projection(y, name, "o_proj", config_.hidden, config_.q_width(), config_.o_bias);
  }

  Id mlp(Id h, const std::string& name) {
    Builder::Scope scope(b_, "mlp");
    const bool bias = config_.mlp_bias;
    const Id gate = projection(h, name, "gate_proj", config_.ffn, config_.hidden, bias);
    const Id up = projection(h, name, "up_proj", config_.ffn, config_.hidden, bias);
    Id inner = swiglu(b_, gate, up);
    if (config_.online_down) inner = hadamard(b_, inner, config_.ffn);
    return projection(inner, name, "down_proj", config_.hidden, config_.ffn, bias);
  }

  Id projection(Id x, const std::string& module, const char* which, int64_t out, int64_t in,
                bool with_bias) {
    Builder::Scope scope(b_, which);
    const std::string name = module + "." + which;
    const Id weight = cast(b_, matrix(name, out, in), build_.dtype);
    return linear(b_, x, weight, with_bias ? vector(name + ".bias", out) : kNone);
  }

  Id matrix(const std::string& module, int64_t rows, int64_t cols) {
    return b_.param(build_.prefix + module + ".weight", {rows, cols}, build_.weight_dtype);
  }
  Id vector(const std::string& name, int64_t size) {
    return b_.param(build_.prefix + name, {size}, DType::f32);
  }

  Builder& b_;
  const ModelConfig& config_;
  const DecoderBuild& build_;
  Builder::Scope scope_;
  Id positions_ = kNone, first_ = kNone, length_ = kNone, table_ = kNone;
};

}  // namespace

Id decoder_hidden(Builder& b, const ModelConfig& config, const DecoderBuild& build) {
  return Decoder(b, config, build).hidden();
}

Id decoder_embedding(Builder& b, const ModelConfig& config, const DecoderBuild& build) {
  return Decoder(b, config, build).embedding_alone();
}

Id decoder_layer(Builder& b, const ModelConfig& config, const DecoderBuild& build, Id x,
                 int layer) {
  return Decoder(b, config, build).layer_alone(x, layer);
}

Id decoder_hidden_from(Builder& b, const ModelConfig& config, const DecoderBuild& build, Id x,
                       int64_t first) {
  return Decoder(b, config, build).hidden_from(x, first);
}

Id decoder_head(Builder& b, const ModelConfig& config, const DecoderBuild& build) {
  return Decoder(b, config, build).head();
}

int64_t planned_linears(const QuantPlan& plan) {
  return std::count_if(plan.linears.begin(), plan.linears.end(), [](const auto& entry) {
    return entry.first != kEmbeddingPath && entry.first != kHeadPath;
  });
}

std::vector<std::string> decoder_linears(const ModelConfig& config) {
  std::vector<std::string> paths;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (const char* which : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                              "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
      paths.push_back(fmt::format("model.layers.{}.{}", layer, which));
  return paths;
}

std::string module_of_weight(const std::string& parameter) {
  constexpr std::string_view kSuffix = ".weight";
  return parameter.ends_with(kSuffix) ? parameter.substr(0, parameter.size() - kSuffix.size())
                                      : parameter;
}

int64_t layer_of(const std::string& path) {
  constexpr std::string_view kBefore = "model.layers.";
  if (!path.starts_with(kBefore)) internal_error("{} is in no decoder layer", path);
  return std::stoll(path.substr(kBefore.size()));
}

std::string attention_path(int64_t layer) {
  return fmt::format("model.layers.{}.self_attn", layer);
}

Shape linear_shape(const ModelConfig& config, const std::string& path) {
  const std::string which = path.substr(path.rfind('.') + 1);
  if (which == "q_proj") return {config.q_width(), config.hidden};
  if (which == "k_proj" || which == "v_proj") return {config.kv_width(), config.hidden};
  if (which == "o_proj") return {config.hidden, config.q_width()};
  if (which == "gate_proj" || which == "up_proj") return {config.ffn, config.hidden};
  if (which == "down_proj") return {config.hidden, config.ffn};
  internal_error("no linear named {}", path);
}

std::vector<SourceTensor> scale_tensors(const QuantPlan& plan, const ModelConfig& config) {
  std::vector<SourceTensor> tensors;
  for (const auto& [path, quant] : plan.linears)
    if (quant.trained_scale)
      tensors.push_back(
          {weight_scale_name(path), scale_shape(linear_shape(config, path), *quant.weight)});
  return tensors;
}

}  // namespace qat
