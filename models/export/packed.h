// Export to GPTQ (AutoGPTQ, GPTQModel, vLLM) and AWQ (AutoAWQ's GEMM layout, vLLM): the codes that
// were trained, transposed and packed. Weights only: activations that were quantized in training
// are not said there.
#pragma once

#include <string>

#include "engine/io/safetensors.h"
#include "models/export/export_model.h"

namespace qat {

struct PackedOptions {
  /// Of what is not quantized: F16 is what the kernels of these formats take; BF16 and F32 load
  /// too.
  StoredType type = StoredType::f16;
  uint64_t max_shard_bytes = uint64_t(5) << 30;
};

/// Writes `directory` as export_huggingface does, verified in the same way. All quantized linears
/// need one QuantSpec: 2, 4 or 8 bits per channel or group, scales exact in F16; symmetric codes
/// are written as v1 (what every reader takes), zero points as gptq_v2. Refuses by name what the
/// format cannot say.
void export_gptq(const std::string& directory, const ExportModel& model, const ExportFiles& files,
                 const PackedOptions& options = {});

/// The same for AWQ: 4 bits per channel or group.
void export_awq(const std::string& directory, const ExportModel& model, const ExportFiles& files,
                const PackedOptions& options = {});

}  // namespace qat
