// The metadata keys of a GGUF file that say what the model computes, and the RoPE divisors that
// have no key.
#pragma once

#include <string>
#include <vector>

#include "engine/io/gguf_write.h"
#include "models/config.h"

namespace qat {

/// From general.architecture to the rotary keys. `type`: of most weights.
std::vector<GgufKey> model_keys(const ModelConfig& config, const std::string& name, GgufType type);

/// The values of rope_freqs.weight, by which each frequency is divided; empty where no such tensor
/// is needed.
std::vector<float> rope_divisors(const ModelConfig& config);

}  // namespace qat
