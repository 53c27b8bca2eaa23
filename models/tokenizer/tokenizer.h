// Text to token ids and back, identical to Hugging Face `tokenizers`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// path: a directory holding tokenizer.json or tokenizer.model, or a .gguf file. Refuses by name
  /// any kind it cannot do exactly.
  static std::unique_ptr<Tokenizer> open(const std::string& path);

  /// Special tokens written in the text are recognised as such; none is added.
  virtual std::vector<int32_t> encode(std::string_view utf8) const = 0;
  /// As encode, plus what the tokenizer's post-processor adds (e.g. <s>).
  virtual std::vector<int32_t> encode_with_special(std::string_view utf8) const = 0;
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
  virtual int64_t vocab_size() const = 0;                ///< highest id + 1
  virtual int32_t bos_id() const = 0;                    ///< -1 if none
  virtual int32_t eos_id() const = 0;                    ///< -1 if none
  virtual const std::string& chat_template() const = 0;  ///< Jinja text, empty if none
  /// Identifies the tokenizer in cache keys (a hash of everything that changes ids).
  virtual uint64_t fingerprint() const = 0;
  /// tokenizer.json text that Hugging Face loads (the source's own, or written from GGUF metadata).
  virtual std::string to_json() const = 0;
  /// tokenizer_config.json text to go with it.
  virtual std::string config_json() const = 0;
};

}  // namespace qat
