#include "recipes/run/recipe/export_targets.h"

#include <fmt/format.h>

#include <algorithm>

#include "recipes/run/recipe/words.h"

namespace qat::recipe {
namespace {

std::string number(int64_t value) {
  return fmt::format("{}", value);
}

// Levels half a step beside the multiples of a scale are in no file's codes.
std::optional<Misfit> range_misfit(const WeightQuant& weights) {
  if (weights.bits && weights.symmetric && weights.range == SymmetricRange::stretched)
    return Misfit{"quantize.weights.range", "strict or full", "stretched"};
  return std::nullopt;
}

// Q8_0, Q5_0, Q4_0 and Q4_1: blocks of 32 with scales (and minima) in f16. Larger groups and rows
// repeat theirs. Q4_K and Q6_K are grids of their own.
std::optional<Misfit> gguf_misfit(const QuantizeOptions& quantize) {
  const WeightQuant& weights = quantize.weights;
  if (!weights.bits || weights.spec().in_super_blocks()) return std::nullopt;
  if (weights.form == Form::e4m3)
    return Misfit{"quantize.weights.form", "integer, q4_k or q6_k", "e4m3"};
  if (weights.per == Per::group && weights.group % 32 != 0)
    return Misfit{"quantize.weights.group", "a multiple of 32", fmt::format("{}", weights.group)};
  if (!weights.symmetric && weights.offset == Offset::zero_point)
    return Misfit{"quantize.weights.offset", "minimum", "zero_point"};
  if (!weights.symmetric && *weights.bits != 4)
    return Misfit{"quantize.weights.bits", "4 for codes that count from a minimum",
                  fmt::format("{}", *weights.bits)};
  if (weights.scale_type != ScaleType::f16 && weights.scale_type != ScaleType::portable)
    return Misfit{"quantize.weights.scale_type", "f16 or portable", word_of(weights.scale_type)};
  return std::nullopt;
}

// Only GGUF files hold embeddings and heads as codes here.
std::optional<Misfit> tables_misfit(const QuantizeOptions& quantize) {
  if (quantize.embeddings != TableGrid::none)
    return Misfit{"quantize.embeddings", "none", word_of(quantize.embeddings)};
  if (quantize.head != TableGrid::none)
    return Misfit{"quantize.head", "none", word_of(quantize.head)};
  return std::nullopt;
}

std::optional<Misfit> compressed_tensors_misfit(const QuantizeOptions& quantize) {
  const WeightQuant& weights = quantize.weights;
  const ActivationQuant& activations = quantize.activations;
  if (!weights.bits) return std::nullopt;  // said where the export list is checked
  if (weights.spec().in_super_blocks())
    return Misfit{"quantize.weights.form", "integer or e4m3", word_of(weights.form)};
  if (activations.bits && activations.form != weights.form)
    return Misfit{"quantize.activations.form", word_of(weights.form) + ", as the weights,",
                  word_of(activations.form)};
  if (!weights.symmetric && weights.offset == Offset::minimum)
    return Misfit{"quantize.weights.offset", "zero_point", "minimum"};
  if (weights.negative_scales())
    return Misfit{"quantize.weights.scale", "a rule with positive scales", word_of(weights.scale)};
  if (!activations.bits && *weights.bits != 2 && *weights.bits != 4 && *weights.bits != 8)
    return Misfit{"quantize.weights.bits", "2, 4 or 8, which pack into words",
                  number(*weights.bits)};
  if (activations.bits && activations.per == ActivationPer::group)
    return Misfit{"quantize.activations.per", "token or tensor", "group"};
  if (activations.bits && activations.dynamic && activations.per == ActivationPer::tensor)
    return Misfit{"quantize.activations.per", "token, or quantize.activations.dynamic: false,",
                  "tensor"};
  return tables_misfit(quantize);
}

// GPTQ and AWQ: packed words, scales in f16.
std::optional<Misfit> packed_misfit(const QuantizeOptions& quantize, ExportFormat format) {
  const WeightQuant& weights = quantize.weights;
  if (!weights.bits) return Misfit{"quantize.weights.bits", "a number", "none"};
  const bool awq = format == ExportFormat::awq;
  if (weights.form != Form::integer)
    return Misfit{"quantize.weights.form", "integer", word_of(weights.form)};
  const int64_t bits = *weights.bits;
  if (awq ? bits != 4 : bits != 2 && bits != 4 && bits != 8)
    return Misfit{"quantize.weights.bits", awq ? "4" : "2, 4 or 8", number(bits)};
  if (weights.per == Per::tensor)
    return Misfit{"quantize.weights.per", "group or channel", "tensor"};
  if (!weights.symmetric && weights.offset == Offset::minimum)
    return Misfit{"quantize.weights.offset", "zero_point", "minimum"};
  if (weights.negative_scales())
    return Misfit{"quantize.weights.scale", "a rule with positive scales", word_of(weights.scale)};
  if (weights.scale_type != ScaleType::f16 && weights.scale_type != ScaleType::portable)
    return Misfit{"quantize.weights.scale_type", "f16 or portable", word_of(weights.scale_type)};
  return tables_misfit(quantize);
}

// Of matrices that all have weights.bits.
std::optional<Misfit> misfit_of_width(const QuantizeOptions& quantize, ExportFormat format) {
  switch (format) {
    case ExportFormat::gguf:
      if (const auto found = range_misfit(quantize.weights)) return found;
      return gguf_misfit(quantize);
    case ExportFormat::compressed_tensors:
      if (const auto found = range_misfit(quantize.weights)) return found;
      return compressed_tensors_misfit(quantize);
    case ExportFormat::gptq:
    case ExportFormat::awq:
      if (const auto found = range_misfit(quantize.weights)) return found;
      return packed_misfit(quantize, format);
    case ExportFormat::peft:
    case ExportFormat::hf:
    case ExportFormat::hf_master:
      break;
  }
  return std::nullopt;
}

// The same options with one width for all.
QuantizeOptions with_bits(const QuantizeOptions& quantize, int64_t bits) {
  QuantizeOptions one = quantize;
  one.weights.bits = bits;
  return one;
}

std::vector<std::string> warnings_of_width(const QuantizeOptions& quantize, ExportFormat format) {
  std::vector<std::string> lines;
  const WeightQuant& weights = quantize.weights;
  const ActivationQuant& activations = quantize.activations;
  const bool packed = format == ExportFormat::gptq || format == ExportFormat::awq;
  if (!weights.bits || (!packed && format != ExportFormat::compressed_tensors)) return lines;
  const auto say = [&](const std::string& text) {
    lines.push_back(fmt::format("export: {}: {}", word_of(format), text));
  };
  if (packed && activations.bits)
    say("stores weights only; what serves it will not quantize the activations this run trains "
        "with");
  if (packed && weights.per == Per::group && weights.group != 32 && weights.group != 64 &&
      weights.group != 128)
    say(fmt::format("no known kernel has groups of {}; vLLM's have 32, 64 or 128", weights.group));
  if (format == ExportFormat::gptq && !weights.symmetric)
    say("zero points are written as gptq_v2, which vLLM does not take (GPTQModel does)");
  if (format == ExportFormat::gptq && *weights.bits == 2)
    say("vLLM takes 4 and 8 bits only (GPTQModel takes 2)");
  if (packed) return lines;
  if (activations.bits && *activations.bits != 8)
    say(fmt::format("no known kernel multiplies {}-bit activations", *activations.bits));
  if (weights.form == Form::e4m3) return lines;
  if (activations.bits && *weights.bits == 8 && (!weights.symmetric || weights.per == Per::group))
    say("vLLM's int8 kernels take symmetric weights per channel or tensor only");
  if (!activations.bits && weights.per == Per::group && weights.group != 32 &&
      weights.group != 64 && weights.group != 128)
    say(fmt::format("vLLM's Marlin kernels have groups of 32, 64 or 128, not {}", weights.group));
  return lines;
}

}  // namespace

std::vector<PossibleWidth> possible_widths(const QuantizeOptions& quantize) {
  std::vector<PossibleWidth> widths;
  if (!quantize.weights.bits) return widths;
  if (quantize.auto_bits.any())
    for (const int64_t bits : quantize.auto_bits.candidates)
      widths.push_back({bits, "quantize.auto_bits.candidates"});
  else
    widths.push_back({*quantize.weights.bits, "quantize.weights.bits"});
  for (const WidthOverride& width : quantize.overrides)
    if (width.bits) widths.push_back({*width.bits, "quantize.overrides"});
  return widths;
}

std::optional<Misfit> misfit(const QuantizeOptions& quantize, ExportFormat format) {
  if (!quantize.weights.bits) return misfit_of_width(quantize, format);
  if (quantize.auto_bits.any() && (format == ExportFormat::gptq || format == ExportFormat::awq))
    return Misfit{"quantize.auto_bits.budget", "none, as that format has one grid for all,",
                  fmt::format("{}", *quantize.auto_bits.budget)};
  for (const auto& [bits, key] : possible_widths(quantize)) {
    auto found = misfit_of_width(with_bits(quantize, bits), format);
    if (!found) continue;
    if (found->key == "quantize.weights.bits") found->key = key;
    return found;
  }
  return std::nullopt;
}

std::vector<std::string> target_warnings(const QuantizeOptions& quantize, ExportFormat format) {
  std::vector<std::string> lines;
  for (const auto& [bits, key] : possible_widths(quantize))
    for (const std::string& line : warnings_of_width(with_bits(quantize, bits), format))
      if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
  if (quantize.auto_bits.any() && quantize.activations.bits &&
      format == ExportFormat::compressed_tensors)
    lines.push_back(
        "export: compressed-tensors: beside quantized activations it stores a byte a code, however "
        "few bits quantize.auto_bits chose");
  return lines;
}

bool as_llama_cpp_computes(const QuantizeOptions& quantize) {
  const ActivationQuant& activations = quantize.activations;
  const bool k_type = quantize.weights.bits && quantize.weights.spec().in_super_blocks();
  return *activations.bits == 8 && activations.form == Form::integer && activations.symmetric &&
         activations.dynamic && activations.per == ActivationPer::group &&
         activations.group == (k_type ? kSuperBlock : 32) && activations.scale == ScaleRule::amax &&
         activations.scale_type == (k_type ? ScaleType::f32 : ScaleType::f16) &&
         activations.range == SymmetricRange::strict;
}

}  // namespace qat::recipe
