// How the next token is drawn from logits.
#pragma once

#include <cstdint>
#include <span>

namespace qat {

struct SamplingOptions {
  int64_t max_tokens = 64;
  double temperature = 0.0;  ///< 0: the likeliest token
  double top_p = 1.0;        ///< of the most likely tokens that hold this share
  int64_t top_k = 0;         ///< 0: all
  double min_p = 0.0;        ///< at least this share of the likeliest one's probability
  /// Logits of tokens that came before are divided by it where positive, multiplied where negative
  /// (Keskar et al., CTRL, 2019); 1: nothing.
  double repetition_penalty = 1.0;
  uint64_t seed = 0;
};

/// In the order of transformers: repetition penalty, temperature, top_k, top_p, min_p. `seen` is
/// what stands before the token, the prompt included; `index` counts the draws of a seed.
int32_t sample(std::span<const float> logits, std::span<const int32_t> seen,
               const SamplingOptions& options, uint64_t index);

}  // namespace qat
