#include "recipes/run/recipe/presets.h"

#include "engine/core/error.h"

namespace qat::recipe {
namespace {

/// int8 in [-127, 127], one scale amax/127 a token, computed as the model runs (vLLM's kernel).
ActivationQuant int8_per_token() {
  ActivationQuant activations;
  activations.bits = 8;
  return activations;
}

WeightQuant int8_per_channel(ScaleType scale_type) {
  WeightQuant weights;
  weights.bits = 8;
  weights.scale_type = scale_type;
  return weights;
}

/// int4 in [-8, 7], groups of 32, the scale of least squared error.
WeightQuant int4_groups_of_32() {
  WeightQuant weights;
  weights.bits = 4;
  weights.per = Per::group;
  weights.group = 32;
  weights.range = SymmetricRange::full;
  weights.scale = ScaleRule::mse;
  weights.scale_type = ScaleType::portable;
  return weights;
}

/// Codes in groups of 128; where they do not divide a row, of 64 or 32.
WeightQuant groups_of_128(ScaleType scale_type, WeightQuant::Fallback fallback) {
  WeightQuant weights = int4_groups_of_32();
  weights.group = 128;
  weights.scale_type = scale_type;
  weights.fallback = fallback;
  return weights;
}

/// int8 in [-128, 127] on one calibrated scale, as vLLM saturates it.
ActivationQuant int8_static() {
  ActivationQuant activations = int8_per_token();
  activations.per = ActivationPer::tensor;
  activations.dynamic = false;
  activations.range = SymmetricRange::full;
  return activations;
}

WeightQuant with_zero_points(WeightQuant weights) {
  weights.symmetric = false;
  return weights;
}

}  // namespace

const std::vector<Preset>& presets() {
  using enum WeightQuant::Fallback;
  static const std::vector<Preset> kPresets = {
      {"none", "none", "nothing is quantized", {}, {}},
      {"w8a8", "vLLM int8",
       "int8 weights, one scale amax/127 an output channel; int8 activations, amax/127 a token",
       int8_per_channel(ScaleType::f32), int8_per_token()},
      {"ct_w8a8", "compressed-tensors int-quantized",
       "w8a8 with weight scales that are exact in bf16 and fp16, as such a file may store them",
       int8_per_channel(ScaleType::portable), int8_per_token()},
      {"w4a8", "compressed-tensors, GPTQ and GGUF Q4_0 containers",
       "int4 weights in groups of 32, codes -8..7, least-squares scales exact in bf16 and fp16; "
       "activations as w8a8",
       int4_groups_of_32(), int8_per_token()},
      {"ct_w8a8_static", "compressed-tensors int-quantized",
       "ct_w8a8 with one calibrated scale for all inputs of a matrix",
       int8_per_channel(ScaleType::portable), int8_static()},
      {"ct_w4a8", "compressed-tensors int-quantized",
       "int4 weights in groups of 128 (64 or 32 where those do not divide a row), codes -8..7, "
       "least-squares scales exact in bf16 and fp16; activations as w8a8",
       groups_of_128(ScaleType::portable, smaller_group), int8_per_token()},
      {"ct_w4a16_g128",
       "compressed-tensors pack-quantized",
       "the weights of ct_w4a8; activations stay as they are",
       groups_of_128(ScaleType::portable, smaller_group),
       {}},
      {"gptq_w4_g128",
       "GPTQ",
       "int4 weights in groups of 128 (64 or 32 for all where those do not divide every row), "
       "codes "
       "-8..7, least-squares scales in fp16; activations stay as they are",
       groups_of_128(ScaleType::f16, smaller_group_for_all),
       {}},
      {"gptq_w8",
       "GPTQ",
       "int8 weights, one fp16 scale amax/127 an output channel",
       int8_per_channel(ScaleType::f16),
       {}},
      {"awq_w4_g128",
       "AWQ",
       "int4 weights with zero points in groups of 128 (64 or 32 for all where those do not divide "
       "every row), least-squares scales in fp16; activations stay as they are",
       with_zero_points(groups_of_128(ScaleType::f16, smaller_group_for_all)),
       {}},
  };
  return kPresets;
}

const Preset& preset_named(const std::string& name) {
  for (const auto& preset : presets())
    if (preset.name == name) return preset;
  internal_error("no preset {}", name);
}

void apply_preset(const Preset& preset, QuantizeOptions& quantize) {
  quantize.preset = preset.name;
  quantize.weights = preset.weights;
  quantize.activations = preset.activations;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> out;
  for (const auto& preset : presets()) out.push_back(preset.name);
  return out;
}

}  // namespace qat::recipe
