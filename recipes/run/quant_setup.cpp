#include "recipes/run/quant_setup.h"

#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "engine/core/error.h"
#include "engine/ptq/ggml_rounding.h"
#include "models/decoder.h"
#include "recipes/run/quant_summary.h"

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
                    const std::vector<std::string>& paths, const char* what) {
  for (const std::string& pattern : patterns)
    if (std::none_of(paths.begin(), paths.end(),
                     [&](const std::string& path) { return matches(pattern, path); }))
      refuse(
          "{}: '{}' matches no {}; name them by the end of their path (q_proj, mlp.down_proj) or "
          "by a glob (model.layers.0.*)",
          key, pattern, what);
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
  using Fallback = recipe::WeightQuant::Fallback;
  if (fallback == Fallback::int8_rows || fallback == Fallback::unquantized)
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
    text = fmt::format("{}: {} columns do not divide into {} of {}; {} instead", path, width,
                       wanted.in_super_blocks() ? "super-blocks" : "groups", wanted.unit(width),
                       wanted.in_super_blocks()  ? (taken.bits == 5 ? "Q5_0" : "Q8_0")
                       : taken.per == Per::group ? fmt::format("groups of {}", taken.group)
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

bool takes_layer(const recipe::QuantizeOptions& quantize, int64_t layer) {
  return quantize.layers.empty() || std::any_of(quantize.layers.begin(), quantize.layers.end(),
                                                [&](const recipe::LayerRange& r) {
                                                  return r.first <= layer && layer <= r.last;
                                                });
}

std::vector<std::string> chosen_linears(const recipe::QuantizeOptions& quantize,
                                        const std::vector<std::string>& paths) {
  std::vector<std::string> chosen;
  for (const std::string& path : paths) {
    const int64_t layer = layer_of(path);
    if (takes_layer(quantize, layer) && any_matches(quantize.include, path) &&
        !any_matches(quantize.exclude, path))
      chosen.push_back(path);
  }
  return chosen;
}

// As quantize.overrides say, else quantize.weights.bits, of which quantize.auto_bits starts with
// the narrowest candidate.
std::optional<int64_t> bits_of(const recipe::QuantizeOptions& quantize, const std::string& path) {
  std::optional<int64_t> bits = quantize.weights.bits;
  const auto& candidates = quantize.auto_bits.candidates;
  if (quantize.auto_bits.any()) bits = *std::min_element(candidates.begin(), candidates.end());
  for (const recipe::WidthOverride& width : quantize.overrides)
    if (matches(width.pattern, path)) bits = width.bits;
  return bits;
}

std::vector<std::string> patterns_of(const std::vector<recipe::WidthOverride>& overrides) {
  std::vector<std::string> patterns;
  for (const recipe::WidthOverride& width : overrides) patterns.push_back(width.pattern);
  return patterns;
}

constexpr int64_t kBlock = 32;  // of Q8_0, Q5_0, Q4_0, Q4_1

// A matrix that falls back to floating point keeps its input, too, as it is.
bool falls_back_unquantized(const recipe::QuantizeOptions& quantize, int64_t width) {
  using Fallback = recipe::WeightQuant::Fallback;
  const bool blocks = quantize.weights.fallback == Fallback::unquantized ||
                      quantize.weights.fallback == Fallback::ggml;
  return quantize.weights.bits && blocks && !quantize.weights.group_by_hand && width % kBlock != 0;
}

QuantSpec q8_0() {
  QuantSpec spec;
  spec.per = Per::group;
  spec.group = int(kBlock);
  spec.scale_type = ScaleType::f16;
  return spec;
}

void plan_kv_cache(const recipe::QuantizeOptions& quantize, const ModelConfig& config,
                   QuantSetup& setup) {
  if (!quantize.kv_cache.any()) return;
  setup.plan.kv_cache = kv_cache_plan(quantize.kv_cache, config);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    if (!takes_layer(quantize, layer)) setup.plan.kv_cache.erase(attention_path(layer));
  setup.notes.push_back(fmt::format("KV cache: {} ({:.2f} bits a value), in {} of {} layers",
                                    kv_cache_text(setup.plan), kv_cache_bits(setup.plan, config),
                                    setup.plan.kv_cache.size(), config.layers));
}

QuantSpec q5_0() {
  QuantSpec spec = q8_0();
  spec.bits = 5;
  spec.range = Range::full;
  spec.rule = ScaleRule::signed_max;
  return spec;
}

// What llama.cpp's quantizer takes for rows of a width that super-blocks do not divide.
QuantSpec fitting_blocks(const QuantSpec& spec, int64_t width) {
  if (width % spec.unit(width) == 0) return spec;
  return spec.form == Form::q4_k ? q5_0() : q8_0();
}

// Activations as ggml quantizes them go by the weights they meet: Q8_K beside K-types, else Q8_0.
QuantSpec beside(const std::optional<QuantSpec>& weight, QuantSpec activation) {
  if (!weight || activation.division != Division::exact || activation.per != Per::group)
    return activation;
  activation.group = weight->in_super_blocks() ? kSuperBlock : int(kBlock);
  activation.scale_type = weight->in_super_blocks() ? ScaleType::f32 : ScaleType::f16;
  return activation;
}

std::optional<QuantSpec> table_grid(recipe::TableGrid grid, int64_t width) {
  if (grid == recipe::TableGrid::none) return std::nullopt;
  return grid == recipe::TableGrid::q8_0 ? q8_0() : fitting_blocks(q6_k_grid(), width);
}

void plan_tables(const recipe::QuantizeOptions& quantize, const ModelConfig& config,
                 QuantSetup& setup) {
  if (!quantize.tables()) return;
  if (config.tied_head && quantize.embeddings != quantize.head)
    refuse(
        "quantize.embeddings and quantize.head differ, but this model's head is tied to its "
        "embeddings: they are one matrix; set both alike");
  if (config.hidden % kBlock != 0) {
    setup.fallbacks.push_back(fmt::format(
        "embeddings and head: {} columns do not divide into blocks of {}; not quantized "
        "(F16 in a GGUF file)",
        config.hidden, kBlock));
    return;
  }
  const auto embeddings = table_grid(quantize.embeddings, config.hidden);
  const auto head_grid = table_grid(quantize.head, config.hidden);
  LinearQuant head;
  if (quantize.activations.bits && quantize.activations.dynamic && head_grid)
    head.activation = beside(head_grid, quantize.activations.spec());
  if (embeddings) setup.plan.linears[kEmbeddingPath] = {.weight = embeddings, .activation = {}};
  if (head_grid) {
    if (!config.tied_head) head.weight = head_grid;
    setup.plan.linears[kHeadPath] = head;
  }
  const auto text = [](const QuantSpec& spec) {
    return spec.form == Form::q6_k ? "Q6_K (int6 in super-blocks of 256)"
                                   : "Q8_0 (int8 in blocks of 32, f16 scales)";
  };
  const bool fell = (quantize.embeddings == recipe::TableGrid::q6_k && embeddings == q8_0()) ||
                    (quantize.head == recipe::TableGrid::q6_k && head_grid == q8_0());
  if (fell)
    setup.fallbacks.push_back(
        fmt::format("embeddings and head: {} columns do not divide into super-blocks of {}; Q8_0 "
                    "instead",
                    config.hidden, kSuperBlock));
  const auto say = [&](const char* what, const QuantSpec& spec, bool input) {
    setup.notes.push_back(fmt::format("{}: {}{}; quantize.embeddings and quantize.head choose",
                                      what, text(spec),
                                      input ? ", the head's input quantized too" : ""));
  };
  const bool input = head.activation.has_value();
  if (config.tied_head) return say("embeddings and tied head", *embeddings, input);
  if (embeddings == head_grid) return say("embeddings and head", *embeddings, input);
  if (embeddings) say("embeddings", *embeddings, false);
  if (head_grid) say("head", *head_grid, input);
}

}  // namespace

QuantSetup make_quant_setup(const recipe::QuantizeOptions& quantize, const ModelConfig& config) {
  QuantSetup setup;
  if (!quantize.any()) return setup;
  const std::vector<std::string> paths = decoder_linears(config);
  check_patterns("quantize.include", quantize.include, paths, "matrix of the model");
  check_patterns("quantize.exclude", quantize.exclude, paths, "matrix of the model");
  for (const recipe::LayerRange& range : quantize.layers)
    if (range.last >= config.layers)
      refuse("quantize.layers: {}-{} goes beyond the model's last layer, {}", range.first,
             range.last, config.layers - 1);

  std::vector<std::string> chosen = chosen_linears(quantize, paths);
  check_patterns("quantize.overrides", patterns_of(quantize.overrides), chosen,
                 "matrix that is quantized");
  if (quantize.weights.bits)
    std::erase_if(chosen, [&](const std::string& path) { return !bits_of(quantize, path); });
  int64_t common_width = 0;  // what one group size for all has to divide
  for (const std::string& path : chosen)
    common_width = std::gcd(common_width, linear_shape(config, path).cols());
  FallbackNotes notes;
  for (const std::string& path : chosen) {
    LinearQuant linear;
    const int64_t width = linear_shape(config, path).cols();
    if (falls_back_unquantized(quantize, width)) {
      setup.fallbacks.push_back(fmt::format(
          "{}: {} columns do not divide into blocks of {}; not quantized (F16 in a GGUF "
          "file)",
          path, width, kBlock));
      continue;
    }
    if (quantize.weights.bits) {
      linear.weight = quantize.weights.spec();
      if (!linear.weight->in_super_blocks()) linear.weight->bits = int(*bits_of(quantize, path));
      const QuantSpec wanted = *linear.weight;
      const bool for_all =
          quantize.weights.fallback == recipe::WeightQuant::Fallback::smaller_group_for_all;
      const int64_t to_divide = for_all ? common_width : width;
      if (wanted.per == Per::group && width % wanted.unit(width) != 0 &&
          quantize.weights.group_by_hand)
        refuse(
            "quantize.weights.group: {} does not divide the {} columns of {}; choose a divisor "
            "or exclude that matrix",
            wanted.unit(width), width, path);
      if (wanted.in_super_blocks()) {
        linear.weight = fitting_blocks(wanted, width);
        if (*linear.weight != wanted) notes.add(path, width, wanted, *linear.weight);
      } else if (wanted.per == Per::group && to_divide % wanted.group != 0 &&
                 !quantize.weights.group_by_hand) {
        linear.weight = fallen_back(wanted, quantize.weights.fallback, to_divide);
        if (width % wanted.group != 0) notes.add(path, width, wanted, *linear.weight);
      }
    }
    if (quantize.activations.bits) {
      linear.activation = beside(linear.weight, quantize.activations.spec());
      if (linear.activation->per == Per::group && width % linear.activation->group != 0)
        refuse(
            "quantize.activations.group: {} does not divide the {} inputs of {}; choose a divisor "
            "or exclude that matrix",
            linear.activation->group, width, path);
      linear.static_activation = !quantize.activations.dynamic;
    }
    if (linear.weight && quantize.weights.rounding == recipe::Rounding::ggml &&
        !ggml_knows(*linear.weight))
      refuse(
          "quantize.weights.rounding: ggml has a rule for the grids of gguf_q8_0, gguf_q4_0 and "
          "gguf_q4_1 alone; take one of these presets, or rounding: nearest");
    linear.trained_scale = linear.weight && quantize.weights.rounding == recipe::Rounding::lsq;
    if (linear.weight || linear.activation) setup.plan.linears[path] = linear;
  }
  for (std::string& line : notes.lines()) setup.fallbacks.push_back(std::move(line));
  plan_tables(quantize, config, setup);
  plan_kv_cache(quantize, config, setup);
  return setup;
}

std::map<std::string, QuantSpec> kv_cache_plan(const recipe::KvCacheQuant& kv,
                                               const ModelConfig& config) {
  const QuantSpec spec = kv.spec(config.head_dim);
  const int64_t width = config.kv_width();
  if (spec.per == Per::group && width % spec.group != 0)
    refuse(
        "quantize.kv_cache.group: {} does not divide the {} keys of a token ({} heads of {}); "
        "choose a divisor, or quantize.kv_cache.per: head",
        spec.group, width, config.kv_heads, config.head_dim);
  if (spec.bits == 4 && width % 2 != 0)
    refuse("quantize.kv_cache.bits: 4 needs an even number of keys a token, got {}; take 8", width);
  std::map<std::string, QuantSpec> plan;
  for (int64_t layer = 0; layer < config.layers; ++layer) plan[attention_path(layer)] = spec;
  return plan;
}

void round_masters_as_ggml(const QuantPlan& plan, Store& store) {
  for (const auto& [path, quant] : plan.linears) {
    if (!quant.weight) continue;
    const View master = store.get(path + ".weight");
    if (master.dtype != DType::f32)
      refuse("quantize.weights.rounding: ggml needs train.optimizer.master: fp32");
    ggml_snap(*quant.weight, master.as<float>(), master.count());
  }
}

}  // namespace qat
