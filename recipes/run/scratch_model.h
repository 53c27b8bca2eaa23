// A model described in the recipe instead of read from disk.
#pragma once

#include <string>

#include "models/config.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// The configuration of `model: {from: scratch, ...}` with the vocabulary of its tokenizer.
ModelConfig scratch_config(const recipe::ModelOptions& options, int64_t vocabulary);

}  // namespace qat
