// Small models and presets, for the tests of how a recipe's grids come to their matrices.
#pragma once

#include "models/config.h"
#include "recipes/run/recipe/presets.h"

namespace qat::test {

inline ModelConfig config_of(int64_t hidden, int64_t ffn) {
  ModelConfig c;
  c.hidden = hidden, c.ffn = ffn, c.layers = 2, c.heads = 4, c.kv_heads = 2;
  c.head_dim = hidden / 4, c.vocab = 40, c.max_positions = 128;
  return c;
}

inline recipe::QuantizeOptions preset(const char* name) {
  recipe::QuantizeOptions quantize;
  recipe::apply_preset(recipe::preset_named(name), quantize);
  return quantize;
}

}  // namespace qat::test
