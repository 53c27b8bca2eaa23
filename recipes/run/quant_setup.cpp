#include "recipes/run/quant_setup.h"

#include <fnmatch.h>

#include <algorithm>

#include "engine/core/error.h"
#include "models/decoder.h"

namespace qat {

bool matches(const std::string& pattern, const std::string& path) {
  if (path == pattern || path.ends_with("." + pattern)) return true;
  return fnmatch(pattern.c_str(), path.c_str(), 0) == 0;
}

namespace {

bool any_matches(const std::vector<std::string>& patterns, const std::string& path) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return matches(p, path); });
}

void check_patterns(const char* key, const std::vector<std::string>& patterns,
                    const std::vector<std::string>& paths) {
  for (const std::string& pattern : patterns)
    if (std::none_of(paths.begin(), paths.end(),
                     [&](const std::string& path) { return matches(pattern, path); }))
      refuse(
          "{}: '{}' matches no matrix of the model; name them by the end of their path (q_proj, "
          "mlp.down_proj) or by a glob (model.layers.0.*)",
          key, pattern);
}

int layer_of(const std::string& path) {
  return std::stoi(path.substr(std::string("model.layers.").size()));
}

}  // namespace

QuantSetup make_quant_setup(const recipe::QuantizeOptions& quantize, const ModelConfig& config) {
  QuantSetup setup;
  if (!quantize.any()) return setup;
  const std::vector<std::string> paths = decoder_linears(config);
  check_patterns("quantize.include", quantize.include, paths);
  check_patterns("quantize.exclude", quantize.exclude, paths);
  for (const recipe::LayerRange& range : quantize.layers)
    if (range.last >= config.layers)
      refuse("quantize.layers: {}-{} goes beyond the model's last layer, {}", range.first,
             range.last, config.layers - 1);

  for (const std::string& path : paths) {
    const int layer = layer_of(path);
    const bool in_range =
        quantize.layers.empty() || std::any_of(quantize.layers.begin(), quantize.layers.end(),
                                               [&](const recipe::LayerRange& r) {
                                                 return r.first <= layer && layer <= r.last;
                                               });
    if (!in_range || !any_matches(quantize.include, path) || any_matches(quantize.exclude, path))
      continue;
    LinearQuant linear;
    if (quantize.weights.bits) {
      linear.weight = quantize.weights.spec();
      const int64_t width = linear_shape(config, path).cols();
      if (linear.weight->per == Per::group && width % linear.weight->group != 0) {
        if (quantize.weights.group_by_hand)
          refuse(
              "quantize.weights.group: {} does not divide the {} columns of {}; choose a divisor "
              "or exclude that matrix",
              linear.weight->group, width, path);
        setup.notes.push_back(
            fmt::format("{}: {} columns do not divide into groups of {}; int8 per "
                        "channel instead",
                        path, width, linear.weight->group));
        linear.weight = QuantSpec{.scale_type = linear.weight->scale_type};
      }
    }
    if (quantize.activations.bits) {
      linear.activation = quantize.activations.spec();
      linear.static_activation = !quantize.activations.dynamic;
    }
    setup.plan.linears[path] = linear;
  }
  return setup;
}

}  // namespace qat
