// What the exporters of integer codes in safetensors share: which tensors a quantized linear
// becomes is the format's, everything around it is here.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "models/export/export_model.h"

namespace qat {

struct CodesFormat {
  std::string name;                         ///< in messages: "GPTQ"
  StoredType type = StoredType::f32;        ///< of what is not quantized
  StoredType scale_type = StoredType::f32;  ///< of the scales, which must be exact in it
  Json quantization_config;
  std::map<std::string, std::string> texts;  ///< files of the format's own, by name
  /// The tensors of one quantized linear.
  std::function<std::vector<SafetensorsEntry>(const ExportTensor&)> entries;
  /// Writes one of them; `codes` gives the checked matrix. `part` is its name after the module's.
  std::function<void(const ExportTensor&, const std::string& part, const SafetensorsEntry&,
                     const std::function<QuantizedMatrix()>& codes, const ByteSink&)>
      put;
};

/// Writes `directory` (config.json with quantization_config, weights, side files), reads it back,
/// compares it, and only then gives it its name.
void write_codes_directory(const std::string& directory, const ExportModel& model,
                           const ExportFiles& files, const CodesFormat& format,
                           uint64_t max_shard_bytes);

/// "model.layers.0.mlp.up_proj" of the tensor "....weight".
std::string module_of(const ExportTensor& tensor);
/// A linear of a layer, or the head.
bool is_linear(const ExportTensor& tensor);

}  // namespace qat
