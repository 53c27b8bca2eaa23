// Byte pair encoding of one pre-tokenized piece: symbols of the vocabulary, then merges in the
// order of their rank, leftmost first. Unknown characters go the way of Hugging Face `tokenizers`.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "models/tokenizer/pair_table.h"
#include "models/tokenizer/vocabulary.h"
#include "models/tokenizer/word_cache.h"

namespace qat {

struct BpeOptions {
  enum class Symbols { bytes, characters };
  Symbols symbols = Symbols::bytes;  ///< what a piece is first cut into
  bool byte_fallback = false;        ///< an unknown character becomes its bytes' <0xNN> pieces
  bool fuse_unknown = false;         ///< neighbouring unknown characters become one unknown token
  bool ignore_merges = false;        ///< a piece that is in the vocabulary is not cut at all
  int32_t unknown_id = -1;           ///< -1: unknown characters vanish
};

/// left and right join to id; the place in the list is the rank.
struct MergeRule {
  int32_t left, right, id;
};

class BpeModel {
 public:
  /// What one encoding thread needs for itself.
  struct Scratch {
    struct Node {
      int32_t id;
      uint32_t previous, next;
      Merge merge;  // with the next node
    };
    WordCache cache;
    std::vector<int32_t> symbols;
    std::vector<Node> nodes;
    std::vector<uint64_t> queue;
  };

  /// vocabulary: raw bytes for Symbols::bytes, text for Symbols::characters.
  BpeModel(Vocabulary vocabulary, const std::vector<MergeRule>& merges, const BpeOptions& options);

  /// Appends the ids of one piece.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  /// False when some byte has no symbol of its own, so that not every text survives.
  bool covers_all_bytes() const { return covers_all_bytes_; }

 private:
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void cut_into_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_few(std::vector<int32_t>& symbols) const;
  void merge_many(Scratch& scratch) const;
  bool words_are_independent(const std::vector<MergeRule>& merges) const;

  Vocabulary vocabulary_;
  PairTable pairs_;
  BpeOptions options_;
  std::array<int32_t, 256> byte_ids_;      // one-byte symbols
  std::array<int32_t, 256> fallback_ids_;  // <0xNN>
  bool covers_all_bytes_ = false;
  bool split_before_space_mark_ = false;
};

}  // namespace qat
