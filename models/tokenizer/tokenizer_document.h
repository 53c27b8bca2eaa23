// A tokenizer.json as parsed: the vocabulary and the merges, which may have a million entries, in
// compact tables, everything else as a JSON tree.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/io/json.h"
#include "models/tokenizer/vocabulary.h"

namespace qat {

/// The merges of model.merges in their order, as text.
class MergeTexts {
 public:
  size_t size() const { return spans_.size(); }
  std::string_view left(size_t i) const {
    return {text_.data() + spans_[i].offset, spans_[i].left};
  }
  std::string_view right(size_t i) const {
    return {text_.data() + spans_[i].offset + spans_[i].left, spans_[i].right};
  }
  /// left and right as one string.
  std::string_view whole(size_t i) const {
    return {text_.data() + spans_[i].offset, size_t(spans_[i].left) + spans_[i].right};
  }
  void add(std::string_view left, std::string_view right);

 private:
  struct Span {
    uint32_t offset, left, right;
  };
  std::string text_;
  std::vector<Span> spans_;
};

struct TokenizerDocument {
  Json rest;             ///< without model.vocab and model.merges
  Vocabulary pieces{0};  ///< model.vocab
  MergeTexts merges;     ///< model.merges
  bool has_vocab = false, has_merges = false;
};

/// `name` stands in front of errors. Refuses what is no JSON object, pieces or ids given twice, ids
/// out of range, and merges that are not two pieces.
TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& name);

}  // namespace qat
