#include "recipes/run/quant_setup.h"

#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

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

// The largest of group/2, group/4, ... >= 32 that divides a row, else one scale a row.
QuantSpec with_smaller_group(QuantSpec spec, int64_t width) {
  constexpr int kSmallestGroup = 32;
  for (int group = spec.group / 2; group >= kSmallestGroup; group /= 2)
    if (width % group == 0) {
      spec.group = group;
      return spec;
    }
  spec.per = Per::row;
  spec.group = 0;
  return spec;
}

// What the preset does about rows that its groups do not divide.
QuantSpec fallen_back(const QuantSpec& spec, recipe::WeightQuant::Fallback fallback,
                      int64_t width) {
  if (fallback == recipe::WeightQuant::Fallback::int8_rows)
    return QuantSpec{.scale_type = spec.scale_type};
  return with_smaller_group(spec, width);
}

// One note for all matrices of a width.
class FallbackNotes {
 public:
  void add(const std::string& path, int64_t width, const QuantSpec& wanted,
           const QuantSpec& taken) {
    auto& [text, count] = notes_[width];
    if (count++ > 0) return;
    text = fmt::format("{}: {} columns do not divide into groups of {}; {} instead", path, width,
                       wanted.group,
                       taken.per == Per::group ? fmt::format("groups of {}", taken.group)
                                               : fmt::format("int{} per channel", taken.bits));
  }
  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    for (const auto& [width, note] : notes_)
      lines.push_back(note.second == 1 ? note.first
                                       : fmt::format("{} (and so for {} other matrices)",
                                                     note.first, note.second - 1));
    return lines;
  }

 private:
  std::map<int64_t, std::pair<std::string, int64_t>> notes_;
};

std::vector<std::string> chosen_linears(const recipe::QuantizeOptions& quantize,
                                        const std::vector<std::string>& paths) {
  std::vector<std::string> chosen;
  for (const std::string& path : paths) {
    const int layer = layer_of(path);
    const bool in_range =
        quantize.layers.empty() || std::any_of(quantize.layers.begin(), quantize.layers.end(),
                                               [&](const recipe::LayerRange& r) {
                                                 return r.first <= layer && layer <= r.last;
                                               });
    if (in_range && any_matches(quantize.include, path) && !any_matches(quantize.exclude, path))
      chosen.push_back(path);
  }
  return chosen;
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

  const std::vector<std::string> chosen = chosen_linears(quantize, paths);
  int64_t common_width = 0;  // what one group size for all has to divide
  for (const std::string& path : chosen)
    common_width = std::gcd(common_width, linear_shape(config, path).cols());
  FallbackNotes notes;
  for (const std::string& path : chosen) {
    LinearQuant linear;
    if (quantize.weights.bits) {
      linear.weight = quantize.weights.spec();
      const QuantSpec wanted = *linear.weight;
      const int64_t width = linear_shape(config, path).cols();
      const bool for_all =
          quantize.weights.fallback == recipe::WeightQuant::Fallback::smaller_group_for_all;
      const int64_t to_divide = for_all ? common_width : width;
      if (wanted.per == Per::group && width % wanted.group != 0 && quantize.weights.group_by_hand)
        refuse(
            "quantize.weights.group: {} does not divide the {} columns of {}; choose a divisor "
            "or exclude that matrix",
            wanted.group, width, path);
      if (wanted.per == Per::group && to_divide % wanted.group != 0 &&
          !quantize.weights.group_by_hand) {
        linear.weight = fallen_back(wanted, quantize.weights.fallback, to_divide);
        if (width % wanted.group != 0) notes.add(path, width, wanted, *linear.weight);
      }
    }
    if (quantize.activations.bits) {
      linear.activation = quantize.activations.spec();
      linear.static_activation = !quantize.activations.dynamic;
    }
    setup.plan.linears[path] = linear;
  }
  setup.notes = notes.lines();
  return setup;
}

}  // namespace qat
