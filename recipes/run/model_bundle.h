// A model as the commands take it: a Hugging Face directory, a GGUF file, or a run directory. What
// is quantized is run as it is served: a run with weights and activations on their grids, a file of
// codes with those very codes and the activations its runtime quantizes.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/data/text_encoder.h"
#include "engine/quant/quant_plan.h"
#include "engine/runtime/store.h"
#include "models/config.h"
#include "models/source.h"
#include "models/tokenizer/tokenizer.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

struct ModelBundle {
  ModelConfig config;
  std::string config_json;  ///< Hugging Face's, unknown keys kept
  std::unique_ptr<Tokenizer> tokenizer;
  QuantPlan plan;  ///< empty for a model that is not quantized
  /// Directory whose chat template and the like go along with an export; may be gone.
  std::string source;
  std::optional<recipe::Recipe> recipe;  ///< of a run directory
  DType weight_dtype = DType::f32;       ///< of the matrices in the Store
};

/// Where a run directory keeps the configuration and tokenizer it trains.
std::string model_directory(const std::string& run);

/// Opens MODEL and reads its parameters into the Store (f32 masters, or codes and scales where the
/// file holds those), with the scales of static activations. Refuses a run directory without a
/// whole checkpoint.
ModelBundle open_model(const std::string& path, Store& store);

/// The tokenizer as the data pipeline wants it.
TextEncoder text_encoder(const Tokenizer& tokenizer, const ModelConfig& config);

}  // namespace qat
