#include "recipes/run/quant_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/kernels.h"
#include "models/decoder.h"

namespace qat {
namespace {

using Json = nlohmann::ordered_json;

bool same_scheme(const LinearQuant& a, const LinearQuant& b) {
  return a.weight == b.weight && a.activation == b.activation &&
         a.static_activation == b.static_activation && a.trained_scale == b.trained_scale;
}

std::vector<std::pair<LinearQuant, int64_t>> schemes(const QuantPlan& plan) {
  std::vector<std::pair<LinearQuant, int64_t>> found;
  for (const auto& [path, linear] : plan.linears) {
    const LinearQuant& quant = linear;
    const auto at = std::find_if(found.begin(), found.end(),
                                 [&](const auto& s) { return same_scheme(s.first, quant); });
    if (at == found.end())
      found.emplace_back(quant, 1);
    else
      ++at->second;
  }
  return found;
}

Json grid_json(const QuantSpec& spec, const char* row_word) {
  Json json = {{"bits", spec.bits},
               {"form", spec.form == Form::e4m3   ? "e4m3"
                        : spec.form == Form::q4_k ? "q4_k"
                        : spec.form == Form::q6_k ? "q6_k"
                                                  : "integer"},
               {"symmetric", spec.symmetric()},
               {"per", spec.per == Per::tensor  ? "tensor"
                       : spec.per == Per::group ? "group"
                                                : row_word}};
  if (spec.per == Per::group) json["group"] = spec.group;
  return json;
}

}  // namespace

std::string grid_text(const QuantSpec& spec, const char* row_word) {
  if (spec.form == Form::q4_k) return "Q4_K";
  if (spec.form == Form::q6_k) return "Q6_K";
  const std::string per = spec.per == Per::group    ? fmt::format("group of {}", spec.group)
                          : spec.per == Per::tensor ? "tensor"
                                                    : row_word;
  if (spec.form == Form::e4m3) return fmt::format("float8 e4m3 per {}", per);
  return fmt::format("int{} per {}{}", spec.bits, per,
                     !spec.symmetric()                ? " with zero points"
                     : spec.range == Range::stretched ? ", no level 0"
                                                      : "");
}

std::string kv_cache_text(const QuantPlan& plan) {
  const QuantSpec& spec = plan.kv_cache.begin()->second;
  const DType type = kv_scale_dtype(spec.scale_type);
  return fmt::format("{}, scales in {}", grid_text(spec, "token"), name_of(type));
}

Json kv_cache_json(const QuantPlan& plan) {
  if (plan.kv_cache.empty()) return nullptr;
  return grid_json(plan.kv_cache.begin()->second, "token");
}

double kv_cache_bits(const QuantPlan& plan, const ModelConfig& config) {
  const QuantSpec& spec = plan.kv_cache.begin()->second;
  const double bytes = double(size_of(kv_scale_dtype(spec.scale_type))) + !spec.symmetric();
  return spec.bits +
         8.0 * bytes * double(spec.groups(config.kv_width())) / double(config.kv_width());
}

std::string plan_identity(const QuantPlan& plan) {
  std::string text =
      fmt::format("{} {}", quantization_json(plan).dump(), kv_cache_json(plan).dump());
  if (mixed_widths_text(plan).empty()) return text;
  for (const auto& [path, linear] : plan.linears)
    text += fmt::format(" {}={}", path, linear.weight ? linear.weight->bits : 0);
  return text;
}

Json quantization_json(const QuantPlan& plan) {
  Json list = Json::array();
  for (const auto& [quant, count] : schemes(plan)) {
    Json scheme = {{"linears", count}, {"weights", nullptr}, {"activations", nullptr}};
    if (quant.weight) scheme["weights"] = grid_json(*quant.weight, "channel");
    if (quant.trained_scale) scheme["weights"]["trained_scale"] = true;
    if (quant.activation) {
      scheme["activations"] = grid_json(*quant.activation, "token");
      scheme["activations"]["dynamic"] = !quant.static_activation;
    }
    list.push_back(std::move(scheme));
  }
  return list;
}

std::string mixed_widths_text(const QuantPlan& plan) {
  std::map<int, int64_t> counts;
  for (const auto& [path, linear] : plan.linears)
    if (linear.weight && !is_table(path)) ++counts[linear.weight->bits];
  if (counts.size() < 2) return "";
  std::vector<std::pair<int, int64_t>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (const auto& [bits, count] : sorted)
    text += text.empty() ? fmt::format("{} weights of {} bits", count, bits)
                         : fmt::format(", {} of {}", count, bits);
  return text;
}

std::vector<std::string> quantization_lines(const QuantPlan& plan) {
  std::vector<std::string> lines;
  for (const auto& [quant, count] : schemes(plan)) {
    std::string line = fmt::format("{} linears: ", count);
    line += quant.weight ? "weights " + grid_text(*quant.weight, "channel") : "weights as they are";
    if (quant.trained_scale) line += ", trained scales";
    if (quant.activation)
      line += fmt::format(", {}activations {}", quant.static_activation ? "static " : "",
                          grid_text(*quant.activation, "token"));
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace qat
