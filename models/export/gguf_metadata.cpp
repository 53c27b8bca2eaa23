#include "models/export/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/core/error.h"
#include "models/families.h"

namespace qat {
namespace {

// llama.cpp's enum llama_ftype.
uint32_t file_type(GgufType type) {
  switch (type) {
    case GgufType::f32:
      return 0;
    case GgufType::f16:
      return 1;
    case GgufType::q4_0:
      return 2;
    case GgufType::q4_1:
      return 3;
    case GgufType::q8_0:
      return 7;
    case GgufType::q5_0:
      return 8;
    case GgufType::q4_k:
      return 14;  // "small": llama.cpp mixes larger types into the "medium" one
    case GgufType::q6_k:
      return 18;
    case GgufType::bf16:
      return 32;
    default:
      internal_error("GGUF export: no file type for {}", gguf_type_name(uint32_t(type)));
  }
}

}  // namespace

std::vector<GgufKey> model_keys(const ModelConfig& c, const std::string& name, GgufType type) {
  const std::string architecture = find_family(c.architecture)->gguf_architecture;
  // llama.cpp has no sliding window for these architectures: within one window it needs none.
  const int64_t context =
      c.sliding_window ? std::min(*c.sliding_window, c.max_positions) : c.max_positions;
  std::vector<GgufKey> keys = {{"general.architecture", architecture},
                               {"general.type", std::string("model")},
                               {"general.name", name},
                               {"general.file_type", file_type(type)},
                               {"general.quantization_version", uint32_t(2)}};
  const auto count = [&](const char* key, int64_t value) {
    keys.push_back({architecture + "." + key, uint32_t(value)});
  };
  count("context_length", context);
  count("embedding_length", c.hidden);
  count("block_count", c.layers);
  count("feed_forward_length", c.ffn);
  count("attention.head_count", c.heads);
  count("attention.head_count_kv", c.kv_heads);
  count("attention.key_length", c.head_dim);
  count("attention.value_length", c.head_dim);
  keys.push_back({architecture + ".attention.layer_norm_rms_epsilon", c.norm_eps});
  keys.push_back({architecture + ".rope.freq_base", float(c.rope_theta)});
  count("rope.dimension_count", c.head_dim);
  count("vocab_size", c.vocab);
  if (c.rope_scaling == RopeScaling::linear) {
    keys.push_back({architecture + ".rope.scaling.type", std::string("linear")});
    keys.push_back({architecture + ".rope.scaling.factor", float(c.rope_factor)});
  }
  return keys;
}

// Formula: transformers, modeling_rope_utils.py, _compute_llama3_parameters.
std::vector<float> rope_divisors(const ModelConfig& c) {
  if (!c.rope_freq_divisors.empty() || c.rope_scaling != RopeScaling::llama3)
    return c.rope_freq_divisors;
  std::vector<float> divisors;
  const double low = c.rope_low_freq_factor, high = c.rope_high_freq_factor;
  const double original = double(c.rope_original_positions);
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    const double frequency = std::pow(c.rope_theta, -2.0 * double(i) / double(c.head_dim));
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    double divisor = 1.0;
    if (wavelength > original / low) {
      divisor = c.rope_factor;
    } else if (wavelength >= original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      divisor = 1.0 / ((1.0 - smooth) / c.rope_factor + smooth);
    }
    divisors.push_back(float(divisor));
  }
  return divisors;
}

}  // namespace qat
