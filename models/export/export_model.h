// What an exporter is given: a configuration, the names and shapes of the tensors, and two
// callbacks that produce their contents one at a time, so that memory holds one tensor however
// large the model. Exporters write the codes they are given and never quantize.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/config.h"
#include "models/quantized_matrix.h"

namespace qat {

struct ExportTensor {
  std::string name;  ///< Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  Shape shape;
  /// How the weight of a linear is quantized; nothing, or no LinearQuant::weight: real numbers.
  LinearQuant quant = {};
  /// Scale and zero point of a static activation (LinearQuant::static_activation).
  std::optional<float> input_scale = {}, input_zero = {};

  bool quantized() const { return quant.weight.has_value(); }
};

struct ExportModel {
  std::string config_json;            ///< of the source; unknown keys are kept
  std::vector<ExportTensor> tensors;  ///< exactly those the configuration asks for
  /// Fills the values of a tensor (dequantized, if it is quantized).
  std::function<void(const ExportTensor&, float* out)> floats;
  /// Codes, scales and zero points of a quantized tensor.
  std::function<QuantizedMatrix(const ExportTensor&)> codes;
  /// How the codes came about, for who finds the file: "trained with qat-train" or the like. May be
  /// empty.
  std::string provenance = {};
  /// Asked about the written file or directory before it gets its name, after the comparison bit
  /// for bit: "" or what is wrong with it. May be empty.
  std::function<std::string(const std::string& path)> check = {};
};

/// The files beside the weights.
struct ExportFiles {
  /// Directory whose tokenizer, chat template and generation files are copied; empty = none.
  std::string source_directory;
  /// Files written from text, by name ("tokenizer.json"); they win over copies.
  std::map<std::string, std::string> texts;
};

/// Every tensor of a configuration as real numbers, for ExportModel::tensors.
std::vector<ExportTensor> export_tensors(const ModelConfig& config);

/// Checks that the tensors are exactly those that config_json asks for; `format` names the exporter
/// in the message. Returns the configuration.
ModelConfig check_export(const ExportModel& model, const std::string& format);

/// Copies or writes the files beside the weights into `directory`.
void write_side_files(const std::string& directory, const ExportFiles& files);

/// Refuses an output that is the source itself, or holds it.
void check_output(const std::string& output, const ExportFiles& files);

}  // namespace qat
