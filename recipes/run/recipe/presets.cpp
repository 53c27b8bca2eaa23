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

}  // namespace

const std::vector<Preset>& presets() {
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
  };
  return kPresets;
}

const Preset& preset_named(const std::string& name) {
  for (const auto& preset : presets())
    if (preset.name == name) return preset;
  internal_error("no preset {}", name);
}

std::vector<std::string> preset_names() {
  std::vector<std::string> out;
  for (const auto& preset : presets()) out.push_back(preset.name);
  return out;
}

}  // namespace qat::recipe
