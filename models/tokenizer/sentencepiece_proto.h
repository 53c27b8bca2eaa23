// The parts of a SentencePiece ModelProto (sentencepiece_model.proto) that its library does not
// show.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/gguf_vocabulary.h"

namespace qat {

struct SentencePieceProto {
  std::vector<std::string> pieces;
  std::vector<double> scores;
  std::vector<PieceType> types;
  enum class Model { unigram = 1, bpe = 2, word = 3, character = 4 } model = Model::unigram;
  bool byte_fallback = false;
  bool space_at_word_end = false;
  bool has_character_map = false;  ///< some normalization beyond spaces
  bool adds_space_prefix = true;
  bool removes_extra_spaces = true;
  bool escapes_spaces = true;
};

/// Refuses bytes that are no protocol buffer; `name` stands in front of errors.
SentencePieceProto read_sentencepiece_proto(std::string_view bytes, const std::string& name);

}  // namespace qat
