// Which value of which layer is quantized how, and which layers are quantized now.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "kernels/quant_spec.h"

namespace qat {

/// How one linear is quantized. An absent part stays in high precision.
struct LinearQuant {
  std::optional<QuantSpec> weight;
  std::optional<QuantSpec> activation;
  bool static_activation = false;  ///< the scale is calibrated and read from the Store
  bool stored_weight = false;      ///< the weight's codes and scales are in the Store, final
  bool trained_scale = false;      ///< the weight's scales are parameters (LSQ), weight_scale_name
  bool stored_grid = false;        ///< its scales are in the Store, final; codes follow the master
  bool trained_stored_scale = false;  ///< with stored_weight: the scales are parameters
  bool listed_groups = false;  ///< with stored_weight: a list in the Store has each column's group

  /// Codes and scales follow from the master alone again.
  void forget_found_weight() {
    stored_weight = trained_scale = stored_grid = trained_stored_scale = listed_groups = false;
  }
};

/// Keyed by the path of the linear, e.g. model.layers.3.mlp.up_proj. model.embed_tokens is the
/// embedding (its table alone), lm_head the head; where the two are tied the grid of the weight
/// stands with the embedding.
struct QuantPlan {
  std::map<std::string, LinearQuant> linears;
  /// Grids of keys (after RoPE) and values, a token a row, by the path of the attention:
  /// model.layers.3.self_attn.
  std::map<std::string, QuantSpec> kv_cache = {};

  /// With a seed, weights are rounded at random, anew each step (in training only).
  std::optional<uint64_t> rounding_seed = {};

  bool empty() const { return linears.empty() && kv_cache.empty(); }
};

/// Decoder layers whose quantizers are on.
using EnabledLayers = std::set<int>;

/// Store name of the calibrated activation scale (and zero point) of a linear's input.
inline std::string activation_scale_name(const std::string& path) {
  return "scale." + path;
}
inline std::string activation_zero_name(const std::string& path) {
  return "zero." + path;
}

/// Parameter f32 of scale_shape with a weight's trained scales, and where the grid has them the
/// zero points that go with them (state, as the scales; not trained).
inline std::string weight_scale_name(const std::string& path) {
  return path + ".weight_scale";
}
inline std::string weight_zero_name(const std::string& path) {
  return "zero." + path + ".weight";
}
inline bool is_weight_scale(const std::string& parameter) {
  return parameter.ends_with(".weight_scale");
}

/// State i64 [1] that stochastic rounding reads: the step.
constexpr const char* kRoundingStep = "rounding.step";

/// Store names of a weight that came, or was solved for, as codes (LinearQuant::stored_weight,
/// stored_grid): i8 [O, K], f32 of scale_shape, and zero points as the scales where the grid has
/// them.
inline std::string codes_name(const std::string& path) {
  return "codes." + path;
}
inline std::string codes_scale_name(const std::string& path) {
  return "codes.scale." + path;
}
inline std::string codes_zero_name(const std::string& path) {
  return "codes.zero." + path;
}
/// i32 [K]: the group of each column (LinearQuant::listed_groups).
inline std::string codes_group_name(const std::string& path) {
  return "codes.group." + path;
}
/// True for the scales of codes, which may be trained (LinearQuant::trained_stored_scale).
inline bool is_codes_scale(const std::string& name) {
  return name.starts_with("codes.scale.");
}

}  // namespace qat
