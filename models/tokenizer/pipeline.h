// The tokenizer of a tokenizer.json: added tokens, normalizer, pre-tokenizer, BPE, post-processor,
// decoder, in Hugging Face's order. Encoding is safe from several threads at once.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "models/tokenizer/added_tokens.h"
#include "models/tokenizer/bpe.h"
#include "models/tokenizer/decoder.h"
#include "models/tokenizer/normalizer.h"
#include "models/tokenizer/pre_tokenizer.h"
#include "models/tokenizer/settings.h"
#include "models/tokenizer/tokenizer.h"
#include "models/tokenizer/vocabulary.h"

namespace qat {

/// Everything a pipeline is made of.
struct PipelineParts {
  std::vector<AddedToken> added;
  Normalizer normalizer;
  std::vector<std::unique_ptr<PreTokenizerStep>> steps;
  std::unique_ptr<BpeModel> model;
  Vocabulary pieces{0};  ///< as tokenizer.json spells them
  Decoder decoder;
  std::vector<int32_t> before, after;  ///< what encode_with_special puts around the text
  std::string json;                    ///< the tokenizer.json this was read from
};

class PipelineTokenizer : public Tokenizer {
 public:
  PipelineTokenizer(PipelineParts parts, TokenizerSettings settings);
  ~PipelineTokenizer() override;

  std::vector<int32_t> encode(std::string_view utf8) const override;
  std::vector<int32_t> encode_with_special(std::string_view utf8) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  int32_t bos_id() const override { return settings_.bos_id; }
  int32_t eos_id() const override { return settings_.eos_id; }
  const std::string& chat_template() const override { return settings_.chat_template; }
  uint64_t fingerprint() const override { return fingerprint_; }
  std::string to_json() const override { return parts_.json; }
  std::string config_json() const override { return settings_.config_json; }

 private:
  struct Work;
  void encode_text(std::string_view text, std::vector<int32_t>& ids) const;
  void encode_segment(std::string_view text, Place place, Work& work,
                      std::vector<int32_t>& ids) const;
  std::unique_ptr<Work> take_work() const;

  PipelineParts parts_;
  TokenizerSettings settings_;
  AddedTokenMatcher plain_matcher_, normalized_matcher_;
  std::vector<std::string> added_text_;  // by index into parts_.added: what decoding shows
  std::vector<int32_t> added_by_id_;     // index into parts_.added, -1 for none
  std::vector<bool> hidden_;             // by id: left out when special tokens are skipped
  int64_t vocab_size_ = 0;
  uint64_t fingerprint_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Work>> idle_;  // scratch memory that no thread is using
};

}  // namespace qat
