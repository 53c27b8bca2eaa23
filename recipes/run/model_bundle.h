// A model as the commands take it: a Hugging Face directory, a GGUF file, or a run directory (then
// the final model as it would be deployed, weights and activations on their grids).
#pragma once

#include <memory>
#include <string>

#include "engine/data/text_encoder.h"
#include "engine/quant/quant_plan.h"
#include "engine/runtime/store.h"
#include "models/config.h"
#include "models/source.h"
#include "models/tokenizer/tokenizer.h"

namespace qat {

struct ModelBundle {
  ModelConfig config;
  std::string config_json;  ///< Hugging Face's, unknown keys kept
  std::unique_ptr<Tokenizer> tokenizer;
  QuantPlan plan;  ///< empty for a model that is not quantized
};

/// Where a run directory keeps the configuration and tokenizer it trains.
std::string model_directory(const std::string& run);

/// Opens MODEL and reads its parameters into the Store (f32 masters), with calibrated scales if a
/// run has them. Refuses a run directory without a whole checkpoint.
ModelBundle open_model(const std::string& path, Store& store);

/// The tokenizer as the data pipeline wants it.
TextEncoder text_encoder(const Tokenizer& tokenizer, const ModelConfig& config);

}  // namespace qat
