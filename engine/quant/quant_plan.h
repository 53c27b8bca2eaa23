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
};

/// Keyed by the path of the linear, e.g. model.layers.3.mlp.up_proj. model.embed_tokens is the
/// embedding (its table alone), lm_head the head; where the two are tied the grid of the weight
/// stands with the embedding.
struct QuantPlan {
  std::map<std::string, LinearQuant> linears;
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

/// Store names of a weight that came as codes (LinearQuant::stored_weight): i8 [O, K], f32 of
/// scale_shape, and zero points as the scales where the grid has them.
inline std::string codes_name(const std::string& path) {
  return "codes." + path;
}
inline std::string codes_scale_name(const std::string& path) {
  return "codes.scale." + path;
}
inline std::string codes_zero_name(const std::string& path) {
  return "codes.zero." + path;
}

}  // namespace qat
