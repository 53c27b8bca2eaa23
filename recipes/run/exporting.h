// Exports of a model: what was trained, written as it is deployed, read back, compared bit for bit
// and then by what it computes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/data/batch.h"
#include "engine/data/tokenize.h"
#include "engine/io/safetensors.h"
#include "recipes/run/finish.h"

namespace qat {

/// A model and what exporting it needs.
struct ExportInputs {
  const ModelConfig& config;
  std::string config_json;  ///< Hugging Face's
  std::string source;       ///< directory whose chat template and the like go along; may be empty
  std::string name;         ///< path of the run or model it is called by without a source
  const Tokenizer& tokenizer;
  std::string chat_template = {};  ///< in place of the tokenizer's own; empty: its own
  const QuantPlan& plan;
  const AdapterPlan& adapters;
  Store& store;  ///< with its rope table
  const KernelTable& kernels;
  Stream& stream;
  std::string provenance;        ///< ExportModel::provenance of quantized formats
  std::vector<Batch> text = {};  ///< what logits are compared on
  std::string text_name = {};
};

struct ExportSettings {
  std::optional<StoredType> type;  ///< of what is not quantized; nothing: the format's usual one
  uint64_t max_shard_bytes = 5'000'000'000;  ///< of a safetensors file
  uint64_t max_split_bytes = 0;              ///< of a GGUF file; 0: one file
};

/// Writes and verifies one format; returns what result.json says of it. Throws Error(not_verified)
/// when the file does not read back as it is, or does not compute what the model computes.
nlohmann::json export_as(const ExportInputs& inputs, recipe::ExportFormat format,
                         const std::string& directory, const ExportSettings& settings = {});

/// What a recipe says of the files it exports.
ExportSettings export_settings(const recipe::Recipe& recipe);

/// Every format the recipe asks for, under export/.
nlohmann::json export_all(const FinishInputs& inputs);

/// A few windows of the first of `files` that can be read, else of a text that is built in.
/// `tokenize` as for evaluation.
void choose_text(const std::vector<std::string>& files, const TokenizeOptions& tokenize,
                 ExportInputs& inputs);

/// "qat-train 0.1.0, trained on this grid (...)", or that it was quantized without training.
std::string provenance_of(const recipe::Recipe& recipe);

/// Refuses what a format cannot hold of this model, before anything is trained: GPTQ and AWQ have
/// one grid for all matrices, and sizes in multiples of 32; GGUF, see check_gguf_export.
void check_exportable(recipe::ExportFormat format, const QuantPlan& plan, const ModelConfig& config,
                      const Tokenizer* tokenizer);

/// What no known kernel runs for the sizes of this model; for the log.
std::vector<std::string> kernel_warnings(recipe::ExportFormat format, const QuantPlan& plan,
                                         const ModelConfig& config);

}  // namespace qat
