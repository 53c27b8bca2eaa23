#include "models/rotate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/ptq/rotation.h"
#include "kernels/hadamard.h"

namespace qat {

namespace {

std::string order_text(int64_t width) {
  const auto [odd, power] = hadamard_order(width);
  if (odd == 1) return fmt::format("{} (Hadamard)", width);
  return fmt::format("{} (Hartley {} x Hadamard {})", width, odd, power);
}

class Rotator {
 public:
  Rotator(const ModelConfig& config, uint64_t seed, Store& store, Stream& stream)
      : config_(config),
        store_(store),
        stream_(stream),
        residual_(config.hidden, 2 * seed),
        head_(config.head_dim, 2 * seed + 1),
        inner_(config.ffn) {}

  void run() {
    make_head();
    rows("model.embed_tokens.weight", residual_);
    for (int64_t i = 0; i < config_.layers; ++i) layer(fmt::format("model.layers.{}.", i));
    fold_norm("model.norm.weight", {"lm_head"});
  }

 private:
  void make_head() {
    if (store_.find("lm_head.weight")) return;
    const View table = store_.get("model.embed_tokens.weight");
    const View head = store_.make("lm_head.weight", table.shape, table.dtype, Category::masters);
    std::memcpy(head.data, table.data, table.bytes());
  }

  void layer(const std::string& name) {
    const std::string attention = name + "self_attn.", mlp = name + "mlp.";
    fold_norm(name + "input_layernorm.weight",
              {attention + "q_proj", attention + "k_proj", attention + "v_proj"});
    made(attention + "v_proj", head_);
    rows(attention + "o_proj.weight", head_);
    made(attention + "o_proj", residual_);
    fold_norm(name + "post_attention_layernorm.weight", {mlp + "gate_proj", mlp + "up_proj"});
    if (config_.online_down) rows(mlp + "down_proj.weight", inner_);
    made(mlp + "down_proj", residual_);
  }

  void rows(const std::string& name, const Rotation& rotation) {
    rotate_rows(store_.get(name), rotation, {}, stream_);
  }
  // A linear whose outputs are rotated.
  void made(const std::string& path, const Rotation& rotation) {
    rotate_columns(store_.get(path + ".weight"), rotation, stream_);
    if (const View bias = store_.find(path + ".bias")) rotate_rows(bias, rotation, {}, stream_);
  }

  // The linears that read a norm take its weights and the residual stream's way back.
  void fold_norm(const std::string& norm, const std::vector<std::string>& linears) {
    const View weight = store_.get(norm);
    const std::span<const float> factors(weight.as<float>(), size_t(weight.count()));
    for (const std::string& path : linears)
      rotate_rows(store_.get(path + ".weight"), residual_, factors, stream_);
    std::fill_n(weight.as<float>(), weight.count(), 1.0f);
  }

  const ModelConfig& config_;
  Store& store_;
  Stream& stream_;
  Rotation residual_, head_, inner_;
};

}  // namespace

ModelConfig rotated(ModelConfig config, const OnlineRotations& online) {
  if (config.online_down || config.online_keys)
    refuse(
        "quantize.rotation.kind: this model is rotated already; remove the key, and it stays as it "
        "is");
  config.tied_head = false;
  config.online_down = online.down;
  config.online_keys = online.keys;
  return config;
}

std::string rotated_config_json(const std::string& config_json, const ModelConfig& rotated) {
  Json json = parse_json_object(config_json, "config.json");
  json["tie_word_embeddings"] = false;
  Json online = Json::array();
  if (rotated.online_down) online.push_back("down_proj");
  if (rotated.online_keys) online.push_back("keys");
  if (!online.empty()) json["online_rotation"] = online;
  return json.dump(2) + "\n";
}

std::string describe_rotation(const ModelConfig& rotated) {
  std::string text = fmt::format("residual stream {}, heads of v_proj {}",
                                 order_text(rotated.hidden), order_text(rotated.head_dim));
  if (rotated.online_down)
    text += fmt::format("; as it runs: inputs of down_proj {}", order_text(rotated.ffn));
  if (rotated.online_keys)
    text +=
        fmt::format("{}queries and keys {}",
                    rotated.online_down ? ", " : "; as it runs: ", order_text(rotated.head_dim));
  return text;
}

void rotate(const ModelConfig& rotated, uint64_t seed, Store& store, Stream& stream) {
  Rotator(rotated, seed, store, stream).run();
}

}  // namespace qat
