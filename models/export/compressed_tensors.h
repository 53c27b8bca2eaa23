// Export to compressed-tensors (what vLLM, llm-compressor and transformers read): int-quantized
// W8A8 and W4A8, float-quantized FP8, pack-quantized W4A16, W8A16 and W4A8, with the codes that
// were trained.
#pragma once

#include <string>

#include "engine/io/safetensors.h"
#include "models/export/export_model.h"

namespace qat {

/// How codes lie in the file.
enum class CodeLayout {
  automatic,  ///< bytes where activations are quantized too or codes are float8, else packed
  bytes,      ///< "int-quantized": one int8 a code
  packed      ///< "pack-quantized": 32-bit words; 2, 4 or 8 bits
};

struct CompressedTensorsOptions {
  CodeLayout layout = CodeLayout::automatic;
  /// F32, or BF16 / F16 where every scale is exactly that (refused otherwise).
  StoredType scale_type = StoredType::f32;
  /// Of what is not quantized: F32, BF16 or F16.
  StoredType type = StoredType::f32;
  uint64_t max_shard_bytes = uint64_t(5) << 30;
};

/// Writes `directory` as export_huggingface does, verified in the same way. Linears that share a
/// QuantSpec become one config group; linears that are not quantized, and lm_head, are ignored.
/// Refuses by name what the format cannot say.
void export_compressed_tensors(const std::string& directory, const ExportModel& model,
                               const ExportFiles& files,
                               const CompressedTensorsOptions& options = {});

/// The quantization_config object, as JSON text.
std::string quantization_config(const ExportModel& model, const CompressedTensorsOptions& options);

}  // namespace qat
