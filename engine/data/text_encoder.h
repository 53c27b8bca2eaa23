// What the data pipeline needs to know of a tokenizer and of a chat template, so that engine/ does
// not depend on models/: two functions and the numbers that go into cache keys.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

/// Where a text of which only some parts are known to be independent may be cut before encoding.
enum class Splitting : uint8_t {
  whole,  ///< only the whole text gives the right ids
  /// encode(a + b) = encode(a) + encode(b) if a ends in a visible ASCII character and one '\n', and
  /// b begins with a-z or A-Z. True of byte-level BPE with the usual pre-tokenizers (which split a
  /// run of more newlines in another way at the end of a text), not of SentencePiece.
  at_line_starts
};

/// Text to ids, as the caller wants documents to be encoded.
struct TextEncoder {
  std::function<std::vector<int32_t>(std::string_view)> encode;  ///< adds no special token
  uint64_t fingerprint = 0;  ///< a hash of everything that changes ids
  int64_t vocab_size = 0;    ///< ids are in [0, vocab_size): the rows of the model's embedding
  int32_t bos = -1;          ///< put before every document; -1 = none
  int32_t eos = -1;          ///< put after every document of text or prompt/completion; -1 = none
  Splitting splitting = Splitting::whole;
};

/// Whether the tokens of a piece of text are targets.
enum class Loss : uint8_t { ignored, counted };

struct TextPiece {
  std::string text;
  Loss loss = Loss::counted;
};

struct ChatMessage {
  std::string role;
  std::string content;
};

/// A conversation as the text the model is trained on, special tokens included; the pieces are
/// joined with nothing between them. The renderer also writes whatever begins and ends the
/// conversation: no bos and no eos is added to what it returns. Throws Error(refused) for what the
/// template cannot do.
struct ChatRenderer {
  std::function<std::vector<TextPiece>(const std::vector<ChatMessage>&)> render;
  uint64_t fingerprint = 0;  ///< a hash of the template and of what counts for the loss
};

}  // namespace qat
