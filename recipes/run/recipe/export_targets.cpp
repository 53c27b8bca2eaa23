#include "recipes/run/recipe/export_targets.h"

#include <fmt/format.h>

#include "recipes/run/recipe/words.h"

namespace qat::recipe {
namespace {

// Q8_0, Q4_0 and Q4_1: blocks of 32 with scales (and minima) in f16. Larger groups and rows repeat
// theirs.
std::optional<Misfit> gguf_misfit(const QuantizeOptions& quantize) {
  const WeightQuant& weights = quantize.weights;
  if (!weights.bits) return std::nullopt;
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

std::optional<Misfit> compressed_tensors_misfit(const QuantizeOptions& quantize) {
  const WeightQuant& weights = quantize.weights;
  if (weights.bits && !weights.symmetric && weights.offset == Offset::minimum)
    return Misfit{"quantize.weights.offset", "zero_point", "minimum"};
  if (weights.bits &&
      (weights.scale == ScaleRule::signed_max || weights.scale == ScaleRule::mse_signed))
    return Misfit{"quantize.weights.scale", "a rule with positive scales", word_of(weights.scale)};
  if (quantize.activations.bits && quantize.activations.per == ActivationPer::group)
    return Misfit{"quantize.activations.per", "token or tensor", "group"};
  if (quantize.embeddings != TableGrid::none)
    return Misfit{"quantize.embeddings", "none", word_of(quantize.embeddings)};
  if (quantize.head != TableGrid::none)
    return Misfit{"quantize.head", "none", word_of(quantize.head)};
  return std::nullopt;
}

}  // namespace

std::optional<Misfit> misfit(const QuantizeOptions& quantize, ExportFormat format) {
  switch (format) {
    case ExportFormat::gguf:
      return gguf_misfit(quantize);
    case ExportFormat::compressed_tensors:
      return compressed_tensors_misfit(quantize);
    case ExportFormat::hf:
    case ExportFormat::hf_master:
      break;
  }
  return std::nullopt;
}

bool as_llama_cpp_computes(const ActivationQuant& activations) {
  return *activations.bits == 8 && activations.symmetric && activations.dynamic &&
         activations.per == ActivationPer::group && activations.group == 32 &&
         activations.scale == ScaleRule::amax && activations.scale_type == ScaleType::f16 &&
         activations.range == SymmetricRange::strict;
}

}  // namespace qat::recipe
