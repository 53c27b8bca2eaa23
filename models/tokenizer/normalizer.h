// What is done to a stretch of text before it is cut: composing (NFC), prepending, replacing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qat {

struct NormalizerStep {
  enum class Kind { nfc, prepend, replace };
  Kind kind;
  std::string pattern;  ///< what replace looks for
  std::string content;  ///< what prepend and replace put in
};

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}
  /// Returns `text` itself where nothing changes; storage holds the result otherwise.
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace qat
