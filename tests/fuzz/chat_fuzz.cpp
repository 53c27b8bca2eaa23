// A chat template: parsed, then rendered for a conversation.
#include "models/tokenizer/chat_template.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

// What a template asks of its tokenizer: the special tokens.
class Tokens : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::vector<int32_t> encode_with_special(std::string_view) const override { return {}; }
  std::string decode(const std::vector<int32_t>&, bool) const override { return {}; }
  int64_t vocab_size() const override { return 3; }
  int32_t bos_id() const override { return 1; }
  int32_t eos_id() const override { return 2; }
  const std::string& chat_template() const override { return none_; }
  uint64_t fingerprint() const override { return 0; }
  std::string to_json() const override { return "{}"; }
  std::string config_json() const override {
    return R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})";
  }

 private:
  std::string none_;
};

}  // namespace

bool fuzz_chat(std::string_view input) {
  const std::vector<ChatMessage> talk = {{"system", "Be brief."},
                                         {"user", " Why is 2 < 3? "},
                                         {"assistant", "Because."},
                                         {"user", "caf\xc3\xa9 <s>"}};
  // A template may refuse a conversation: what counts is that it was understood.
  return read_or_refuse([&] {
    const ChatTemplate chat{Tokens(), std::string(input)};
    read_or_refuse([&] { chat.render(talk, AddGenerationPrompt::yes); });
    read_or_refuse([&] {
      std::string joined;
      for (const TextPiece& piece : chat.render_pieces(talk)) joined += piece.text;
      if (joined != chat.render(talk, AddGenerationPrompt::no))
        throw Broken("the pieces are not the text");
    });
  });
}

}  // namespace qat::fuzz
