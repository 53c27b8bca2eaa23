// What an export computes, against what was trained: the file is opened by our own reader as any
// command would, and its logits are compared on held-out text.
#pragma once

#include <optional>

#include "engine/io/safetensors.h"
#include "models/compare.h"
#include "recipes/run/exporting.h"

namespace qat {

class ExportCheck {
 public:
  explicit ExportCheck(const ExportInputs& inputs) : in_(inputs) {}

  /// "" if the file at `path` computes what the model under `plan` computes, within the noise of
  /// its runtimes; else by how much it does not. `type`: what was stored unquantized. Compared
  /// under the activations that the file's runtime computes.
  std::string find_fault(const std::string& path, const QuantPlan& plan, StoredType type);
  /// Nothing before find_fault was asked.
  const std::optional<Agreement>& agreement() const { return agreement_; }

 private:
  const ExportInputs& in_;
  std::optional<Agreement> agreement_;
};

}  // namespace qat
