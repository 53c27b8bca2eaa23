// A model as the commands take it: a Hugging Face directory, a GGUF file, or a run directory. What
// is quantized is run as it is served: a run with weights and activations on their grids, a file of
// codes with those very codes and the activations its runtime quantizes.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "engine/data/text_encoder.h"
#include "engine/quant/quant_plan.h"
#include "engine/runtime/store.h"
#include "models/config.h"
#include "models/graphs.h"
#include "models/source.h"
#include "models/tokenizer/tokenizer.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

struct ModelBundle {
  ModelConfig config;
  std::string config_json;  ///< Hugging Face's, unknown keys kept
  std::unique_ptr<Tokenizer> tokenizer;
  QuantPlan plan;        ///< empty for a model that is not quantized
  AdapterPlan adapters;  ///< of a run with an adapter, or of AdapterArguments
  /// Directory whose chat template and the like go along with an export; may be gone.
  std::string source;
  std::optional<recipe::Recipe> recipe;  ///< of a run directory
};

/// Where a run directory keeps the configuration and tokenizer it trains.
std::string model_directory(const std::string& run);

/// A PEFT directory on a model that has none, as commands take it.
struct AdapterArguments {
  std::string directory;      ///< empty: no adapter
  std::string base = "none";  ///< as adapter.base
};
/// Adds --adapter and --base.
void add_options(CLI::App& app, AdapterArguments& arguments);

/// How commands keep the KV cache: as MODEL says (empty), as a type of quantize.kv_cache, or f32
/// for the type of the computation.
void add_kv_option(CLI::App& app, std::string& kv);
void choose_kv_cache(const std::string& kv, ModelBundle& bundle);

/// Opens MODEL and reads its parameters into the Store (f32 masters, or codes and scales where the
/// file holds those), with the scales of static activations. Refuses a run directory without a
/// whole checkpoint, and one whose adapters were trained on another base than lies at its model
/// path now.
ModelBundle open_model(const std::string& path, Store& store, const KernelTable& kernels,
                       Stream& stream, const AdapterArguments& adapter = {});
/// What a forward pass of the bundle needs: configuration, plans, types.
ForwardSpec forward_spec(const ModelBundle& bundle, const Store& store, DType dtype);

/// The tokenizer as the data pipeline wants it.
TextEncoder text_encoder(const Tokenizer& tokenizer, const ModelConfig& config);

}  // namespace qat
