// Export to a GGUF file (llama.cpp): the codes that were trained in Q8_0, Q4_0 and Q4_1 blocks,
// with everything llama.cpp needs to run the model.
#pragma once

#include <string>

#include "models/export/export_model.h"
#include "models/tokenizer/tokenizer.h"

namespace qat {

struct GgufOptions {
  std::string name = "model";  ///< general.name; the file is <name>-<type>.gguf
  /// null: a file without a tokenizer, which takes token ids only.
  const Tokenizer* tokenizer = nullptr;
  /// Tensors of a larger model are split over several files; 0: one file, however large.
  uint64_t max_file_bytes = 0;
};

/// Refuses what a GGUF file of this model could not say: a grid, a bias, a tokenizer. Costs
/// nothing, so it can be asked before anything is trained.
void check_gguf_export(const ModelConfig& config, const QuantPlan& plan,
                       const Tokenizer* tokenizer);

/// Writes `directory`/<name>-<type>.gguf, reads it back with the reader of GGUF models, compares
/// it, and only then gives the directory its name. Matrices that are not quantized are stored as
/// F16 or BF16, whichever is exact; where neither is, as F16, or BF16 if a value is beyond F16.
/// Returns the path of the (first) file. Throws Error(cannot_write), or Error(not_verified) with
/// what was written kept aside.
std::string export_gguf(const std::string& directory, const ExportModel& model,
                        const GgufOptions& options);

}  // namespace qat
