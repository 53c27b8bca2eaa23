// ChatTemplate.
#include "models/tokenizer/chat_template.h"

#include <xxhash.h>

#include <utility>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "models/tokenizer/jinja_parser.h"
#include "models/tokenizer/jinja_render.h"
#include "models/tokenizer/settings.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

constexpr const char* kAssistant = "assistant";
using Span = std::pair<size_t, size_t>;

std::vector<TextPiece> cut(const std::string& text, const std::vector<Span>& counted) {
  std::vector<TextPiece> pieces;
  size_t at = 0;
  const auto add = [&](size_t end, Loss loss) {
    if (at < end) pieces.push_back({text.substr(at, end - at), loss});
    at = end;
  };
  for (const auto& [begin, end] : counted) {
    add(begin, Loss::ignored);
    add(end, Loss::counted);
  }
  add(text.size(), Loss::ignored);
  return pieces;
}

}  // namespace

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer)
    : ChatTemplate(tokenizer, tokenizer.chat_template()) {}

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer, const std::string& source) {
  if (source.empty())
    refuse(
        "chat messages need a chat template and the model has none (chat_template in "
        "tokenizer_config.json, or chat_template.jinja); name a Jinja file with "
        "data.chat_template");
  check_utf8(source, "the chat template");
  tree_ = jinja::parse(source);
  // The special tokens are variables of the template, by the names they have in the configuration.
  const Json config = parse_json(tokenizer.config_json(), "tokenizer_config.json");
  std::string key = source;
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const auto found = config.find(name);
    if (found == config.end()) continue;
    const Json* text = &*found;
    if (text->is_object() && text->contains("content")) text = &text->at("content");
    if (!text->is_string()) continue;
    special_tokens_.emplace_back(name, jinja::Value(text->get<std::string>()));
    key += std::string("\n") + name + "=" + text->get<std::string>();
    if (std::string_view(name) == "eos_token") end_token_ = text->get<std::string>();
  }
  fingerprint_ = XXH3_64bits(key.data(), key.size());
}

ChatTemplate::~ChatTemplate() = default;

jinja::Dict ChatTemplate::variables(const std::vector<ChatMessage>& messages,
                                    AddGenerationPrompt prompt) const {
  jinja::List list;
  for (const ChatMessage& message : messages)
    list.emplace_back(jinja::Dict{{"role", unicode::replace_invalid(message.role)},
                                  {"content", unicode::replace_invalid(message.content)}});
  jinja::Dict variables = special_tokens_;
  variables.emplace_back("messages", jinja::Value(std::move(list)));
  variables.emplace_back("tools", jinja::Value(jinja::None{}));
  variables.emplace_back("documents", jinja::Value(jinja::None{}));
  variables.emplace_back("add_generation_prompt", jinja::Value(prompt == AddGenerationPrompt::yes));
  return variables;
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                 AddGenerationPrompt prompt) const {
  return jinja::render(*tree_, variables(messages, prompt)).text;
}

std::vector<TextPiece> ChatTemplate::render_pieces(const std::vector<ChatMessage>& messages) const {
  const jinja::Rendered whole = jinja::render(*tree_, variables(messages, AddGenerationPrompt::no));
  if (!whole.generated.empty()) return cut(whole.text, whole.generated);
  std::vector<Span> answers;
  std::vector<ChatMessage> before;
  for (const ChatMessage& message : messages) {
    const bool answer = message.role == kAssistant;
    const std::string prompt = answer ? render(before, AddGenerationPrompt::yes) : std::string();
    before.push_back(message);
    if (!answer) continue;
    const std::string with_answer = render(before, AddGenerationPrompt::no);
    if (!with_answer.starts_with(prompt) || !whole.text.starts_with(with_answer))
      refuse(
          "the chat template writes the turns before message {} differently once it is there, "
          "so the answer cannot be told from the prompt; use a template that marks answers with "
          "{{% generation %}}, or split the conversation",
          before.size());
    size_t end = with_answer.size();
    if (!end_token_.empty()) {
      const size_t last = with_answer.rfind(end_token_);
      if (last != std::string::npos && last >= prompt.size()) end = last + end_token_.size();
    }
    answers.emplace_back(prompt.size(), end);
  }
  return cut(whole.text, answers);
}

ChatRenderer make_chat_renderer(std::shared_ptr<const ChatTemplate> chat) {
  return {
      [chat](const std::vector<ChatMessage>& messages) { return chat->render_pieces(messages); },
      chat->fingerprint()};
}

}  // namespace qat
