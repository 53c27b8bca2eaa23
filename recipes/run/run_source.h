// Models to start from or to learn from, run directories among them: then the high-precision
// weights of the run's newest whole checkpoint.
#pragma once

#include <memory>
#include <string>

#include "models/source.h"

namespace qat {

/// A directory that qat-train has written a model description into.
bool is_run_directory(const std::string& path);

/// Where the tokenizer of MODEL lies: a run keeps it in model/.
std::string tokenizer_path(const std::string& path);

struct OpenedSource {
  std::unique_ptr<ModelSource> model;
  /// Of a run directory: which checkpoint was taken, of which process. A run moves on, other
  /// sources do not, and have none.
  std::string checkpoint;
};

/// Opens a Hugging Face directory, a .gguf file or a run directory, of which the log names the
/// checkpoint. Refuses a run without a whole one. `key` is the recipe's, for messages.
OpenedSource open_source(const std::string& path, const std::string& key);

}  // namespace qat
