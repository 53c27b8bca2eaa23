// Export to a plain Hugging Face directory: real numbers, quantized weights dequantized.
#pragma once

#include <string>

#include "engine/io/safetensors.h"
#include "models/export/export_model.h"

namespace qat {

struct HuggingFaceOptions {
  StoredType type = StoredType::f32;  ///< F32, BF16 or F16
  uint64_t max_shard_bytes = uint64_t(5) << 30;
};

/// Writes `directory` (config.json, model.safetensors or shards, the files beside them), reads it
/// back, compares it bit for bit, and only then gives it its name. Throws Error(cannot_write), or
/// Error(not_verified) with what was written kept aside.
void export_huggingface(const std::string& directory, const ExportModel& model,
                        const ExportFiles& files, const HuggingFaceOptions& options = {});

/// config.json text with its dtype set ("dtype" or "torch_dtype", whichever it has) and without
/// quantization_config; other keys stay. Two spaces of indentation.
std::string with_dtype(const std::string& config_json, StoredType type);

/// config.json text with the model's provenance under "quantized_by".
std::string with_provenance(const std::string& config_json, const ExportModel& model);

}  // namespace qat
