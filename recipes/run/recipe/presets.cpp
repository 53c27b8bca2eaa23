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

/// A GGUF type of blocks of 32 with f16 scales.
WeightQuant ggml_blocks(int64_t bits, ScaleRule scale) {
  WeightQuant weights;
  weights.bits = bits;
  weights.per = Per::group;
  weights.group = 32;
  weights.scale = scale;
  weights.scale_type = ScaleType::f16;
  weights.fallback = WeightQuant::Fallback::unquantized;
  return weights;
}

WeightQuant ggml_q4_0() {
  WeightQuant weights = ggml_blocks(4, ScaleRule::signed_max);
  weights.range = SymmetricRange::full;
  return weights;
}

WeightQuant ggml_q4_1() {
  WeightQuant weights = ggml_blocks(4, ScaleRule::min_max);
  weights.symmetric = false;
  weights.offset = Offset::minimum;
  return weights;
}

/// What llama.cpp does to an activation before a product with such weights: Q8_0 (Q8_1 has the same
/// codes), int8 in blocks of 32, divided by the scale before it becomes f16.
ActivationQuant ggml_q8_0_activations() {
  ActivationQuant activations;
  activations.bits = 8;
  activations.per = ActivationPer::group;
  activations.group = 32;
  activations.scale_type = ScaleType::f16;
  activations.divide = Division::exact;
  return activations;
}

WeightQuant ggml_super_blocks(const QuantSpec& grid) {
  WeightQuant weights;
  weights.bits = grid.bits;
  weights.form = grid.form;
  weights.per = Per::group;
  weights.group = grid.group;
  weights.scale = grid.rule;
  weights.scale_type = grid.scale_type;
  weights.fallback = WeightQuant::Fallback::ggml;
  weights.symmetric = grid.symmetric();
  if (grid.has_minimum()) weights.offset = Offset::minimum;
  if (grid.range == Range::full) weights.range = SymmetricRange::full;
  return weights;
}

/// What llama.cpp does to an activation before a product with such weights: Q8_K.
ActivationQuant ggml_q8_k_activations() {
  ActivationQuant activations = ggml_q8_0_activations();
  activations.group = kSuperBlock;
  activations.scale_type = ScaleType::f32;
  return activations;
}

/// float8, one scale amax/448 an output channel.
WeightQuant e4m3_per_channel() {
  WeightQuant weights = int8_per_channel(ScaleType::bf16);
  weights.form = Form::e4m3;
  return weights;
}

/// float8, one scale amax/448 a token, computed as the model runs.
ActivationQuant e4m3_per_token() {
  ActivationQuant activations = int8_per_token();
  activations.form = Form::e4m3;
  return activations;
}

WeightQuant portable(WeightQuant weights) {
  weights.fallback = WeightQuant::Fallback::unquantized;
  return weights;
}

}  // namespace

const std::vector<Preset>& presets() {
  using enum WeightQuant::Fallback;
  static const std::vector<Preset> kPresets = {
      {"none", "none", "nothing is quantized", {}, {}},
      {"w8a8", "vLLM int8",
       "int8 weights, one scale amax/127 an output channel; int8 activations, amax/127 a token",
       int8_per_channel(ScaleType::f32), int8_per_token(), TableGrid::none, "ct_w8a8"},
      {"ct_w8a8", "compressed-tensors int-quantized",
       "w8a8 with weight scales that are exact in bf16 and fp16, as such a file may store them",
       int8_per_channel(ScaleType::portable), int8_per_token()},
      {"w4a8", "compressed-tensors, GPTQ and GGUF Q4_0 containers",
       "int4 weights in groups of 32, codes -8..7, least-squares scales exact in bf16 and fp16; "
       "activations as w8a8",
       int4_groups_of_32(), int8_per_token(), TableGrid::none, "ct_w4a8"},
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
      {"ct_fp8", "compressed-tensors float-quantized",
       "float8 (e4m3) weights, one scale amax/448 an output channel, exact in bf16; float8 "
       "activations, amax/448 a token",
       e4m3_per_channel(), e4m3_per_token()},
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
      {"gguf_q8_0", "llama.cpp Q8_0",
       "int8 weights in blocks of 32, scales amax/127 in f16; activations in Q8_0 blocks, as "
       "llama.cpp multiplies them; embeddings and head in Q8_0",
       ggml_blocks(8, ScaleRule::amax), ggml_q8_0_activations(), TableGrid::q8_0},
      {"gguf_q4_0", "llama.cpp Q4_0",
       "int4 weights in blocks of 32, codes -8..7, the value of largest magnitude on -8, scales in "
       "f16; activations, embeddings and head as gguf_q8_0",
       ggml_q4_0(), ggml_q8_0_activations(), TableGrid::q8_0},
      {"gguf_q4_1", "llama.cpp Q4_1",
       "int4 weights in blocks of 32 counted from their minimum, scale and minimum in f16; "
       "activations, embeddings and head as gguf_q8_0",
       ggml_q4_1(), ggml_q8_0_activations(), TableGrid::q8_0},
      {"gguf_q4_k", "llama.cpp Q4_K",
       "int4 weights in super-blocks of 256 (Q5_0 where those do not divide a row), scales and "
       "minima by least squares; activations in Q8_K blocks, as llama.cpp multiplies them; "
       "embeddings and head in Q6_K",
       ggml_super_blocks(q4_k_grid()), ggml_q8_k_activations(), TableGrid::q6_k},
      {"gguf_q6_k", "llama.cpp Q6_K",
       "int6 weights in super-blocks of 256 (Q8_0 where those do not divide a row), scales by "
       "least squares; activations, embeddings and head as gguf_q4_k",
       ggml_super_blocks(q6_k_grid()), ggml_q8_k_activations(), TableGrid::q6_k},
      {"portable_w4",
       "GGUF Q4_0, compressed-tensors and GPTQ at once",
       "int4 weights in groups of 32, codes -8..7, least-squares scales exact in bf16 and fp16; "
       "activations as they are, since each runtime has its own",
       portable(int4_groups_of_32()),
       {}},
      {"portable_w8",
       "GGUF Q8_0, compressed-tensors and GPTQ at once",
       "int8 weights, one scale amax/127 an output channel, exact in bf16 and fp16; activations as "
       "they are",
       portable(int8_per_channel(ScaleType::portable)),
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
  quantize.embeddings = quantize.head = preset.tables;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> out;
  for (const auto& preset : presets()) out.push_back(preset.name);
  return out;
}

}  // namespace qat::recipe
