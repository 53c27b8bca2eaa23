// A SentencePiece or byte-level vocabulary as GGUF and tokenizer.model list it, and the
// tokenizer.json that gives the same ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/io/gguf.h"
#include "models/tokenizer/settings.h"

namespace qat {

enum class PieceType : int64_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

/// How tokenizer.json should be written for a list of pieces with scores.
struct ScoredVocabulary {
  std::vector<std::string> pieces;  ///< by id
  std::vector<double> scores;
  std::vector<PieceType> types;
  bool adds_space_prefix = true;
  std::vector<int32_t> before, after;  ///< ids around an encoded text
};

/// tokenizer.json text (BPE with byte fallback, spaces as U+2581). `name` stands in front of
/// errors.
std::string scored_vocabulary_json(const ScoredVocabulary& vocabulary, const std::string& name);

/// What a GGUF file says about its tokenizer.
struct GgufTokenizer {
  std::string json;
  TokenizerSettings settings;
};

/// Refuses every tokenizer.ggml.model and .pre that is not known to the letter.
GgufTokenizer read_gguf_tokenizer(const GgufFile& file);

}  // namespace qat
