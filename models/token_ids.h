// The one check between a tokenizer and the embedding whose rows its ids name.
#pragma once

#include <cstdint>
#include <span>

#include "engine/core/error.h"
#include "models/config.h"

namespace qat {

/// Refuses ids without a row in the embedding: a tokenizer that belongs to another model, or that
/// got tokens for which the model was never widened.
inline void check_token_ids(std::span<const int32_t> ids, const ModelConfig& config) {
  for (const int32_t id : ids)
    if (id < 0 || id >= config.vocab)
      refuse("the tokenizer made the id {}, the model's vocabulary has {}; is it of another model?",
             id, config.vocab);
}

}  // namespace qat
