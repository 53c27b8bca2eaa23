// From token strings back to text: the decoder steps of tokenizer.json.
#pragma once

#include <string>
#include <vector>

namespace qat {

struct DecoderStep {
  enum class Kind { byte_level, byte_fallback, fuse, replace, strip, metaspace };
  Kind kind;
  std::string pattern;     ///< replace: what to look for; strip, metaspace: the character
  std::string content;     ///< replace: what to put in
  size_t strip_start = 0;  ///< strip: how many at most, at either end
  size_t strip_stop = 0;
  bool drops_first_mark = false;  ///< metaspace: the marks of the first token vanish
};

class Decoder {
 public:
  /// Without steps the tokens are joined by spaces, as Hugging Face does without a decoder.
  Decoder() = default;
  explicit Decoder(std::vector<DecoderStep> steps) : steps_(std::move(steps)), present_(true) {}
  std::string decode(std::vector<std::string> tokens) const;

 private:
  std::vector<DecoderStep> steps_;
  bool present_ = false;
};

}  // namespace qat
