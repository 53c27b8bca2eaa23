// Conversations as the text a model is trained on: the tokenizer's own chat template, run as
// Hugging Face's apply_chat_template does, and which parts of the text are the assistant's answers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/data/text_encoder.h"
#include "models/tokenizer/jinja_value.h"
#include "models/tokenizer/tokenizer.h"

namespace qat {

namespace jinja {
struct Node;
}

/// Whether the text ends with what makes the model answer.
enum class AddGenerationPrompt { no, yes };

class ChatTemplate {
 public:
  /// Refuses a tokenizer without a chat template, and a template that uses what cannot be done
  /// exactly, by name. Today's date is not known to templates, so that a run can be repeated: those
  /// that ask whether it is take their fixed one.
  explicit ChatTemplate(const Tokenizer& tokenizer);
  /// Another template for the same tokenizer.
  ChatTemplate(const Tokenizer& tokenizer, const std::string& source);
  ~ChatTemplate();

  /// The text; encode it with Tokenizer::encode, special tokens are written in it.
  std::string render(const std::vector<ChatMessage>& messages, AddGenerationPrompt prompt) const;

  /// The text in pieces, of which the assistant's answers count for the loss: from where the
  /// generation prompt ends up to the last end-of-text token of the answer, that token included, or
  /// what the template itself marks with {% generation %}. Refuses a template that changes earlier
  /// turns when later ones come.
  std::vector<TextPiece> render_pieces(const std::vector<ChatMessage>& messages) const;

  /// A hash of everything that changes the text or the pieces.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  jinja::Dict variables(const std::vector<ChatMessage>& messages, AddGenerationPrompt prompt) const;

  std::unique_ptr<const jinja::Node> tree_;
  jinja::Dict special_tokens_;
  std::string end_token_;
  uint64_t fingerprint_ = 0;
};

/// For the data pipeline; shares ownership of what it needs.
ChatRenderer make_chat_renderer(std::shared_ptr<const ChatTemplate> chat);

}  // namespace qat
