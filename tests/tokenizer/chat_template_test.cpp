// Chat templates against what jinja2 makes of them with Hugging Face's settings.
#include "models/tokenizer/chat_template.h"

#include <gtest/gtest.h>


#include "engine/core/error.h"
#include "models/tokenizer/jinja_parser.h"
#include "tests/tokenizer/golden.h"
#include "tests/tokenizer/scratch.h"

namespace qat {
namespace {

using Messages = std::vector<ChatMessage>;

class ChatTemplates : public testing::Test {
 protected:
  void SetUp() override { golden_ = read_json_file(kGolden + "chat.json"); }

  ChatTemplate with_template(const std::string& source, const std::string& eos = "</s>") {
    const auto folder = scratch_.make_folder();
    std::filesystem::copy_file(kGolden + "llama2/tokenizer.json", folder / "tokenizer.json");
    write_file(folder / "tokenizer_config.json",
               Json{{"bos_token", "<s>"}, {"eos_token", {{"content", eos}}}}.dump());
    write_file(folder / "chat_template.jinja", source);
    return ChatTemplate(*Tokenizer::open(folder.string()));
  }
  // The template of a family in the golden file.
  std::string family(const std::string& name) const {
    for (const Json& item : golden_["cases"])
      if (item["name"].get<std::string>().starts_with(name + "/")) return item["template"];
    throw std::runtime_error("no such family: " + name);
  }
  // What counts for the loss, each answer between brackets.
  static std::string marked(const std::vector<TextPiece>& pieces) {
    std::string text;
    for (const TextPiece& piece : pieces)
      text += piece.loss == Loss::counted ? "[" + piece.text + "]" : piece.text;
    return text;
  }

  Json golden_;
  ScratchFolder scratch_;
};

TEST_F(ChatTemplates, RenderAsJinja2Does) {
  int rendered = 0, refused = 0;
  for (const Json& item : golden_["cases"]) {
    SCOPED_TRACE(item["name"].get<std::string>() + ": " + item["template"].get<std::string>());
    Messages messages;
    for (const Json& message : item["messages"])
      messages.push_back({message["role"], message["content"]});
    const auto prompt =
        item["prompt"].get<bool>() ? AddGenerationPrompt::yes : AddGenerationPrompt::no;
    if (item.contains("error")) {
      ++refused;
      EXPECT_THROW(with_template(item["template"]).render(messages, prompt), Error);
    } else {
      ++rendered;
      EXPECT_EQ(with_template(item["template"]).render(messages, prompt), item["text"]);
    }
  }
  EXPECT_GT(rendered, 120);
  EXPECT_GT(refused, 10);
}

TEST_F(ChatTemplates, UnsupportedConstructsAreRefusedWhenRead) {
  for (const Json& source : golden_["unsupported"])
    EXPECT_THROW(jinja::parse(source.get<std::string>()), Error) << source;
  EXPECT_THROW(jinja::parse("{{ " + std::string(100000, '(')), Error);
  EXPECT_THROW(jinja::parse("{{ " + std::string(100000, '-') + "1 }}"), Error);
  std::string nested;
  for (int i = 0; i < 5000; ++i) nested += "{% if 1 %}";
  EXPECT_THROW(jinja::parse(nested), Error);
  EXPECT_THROW(with_template("{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}"
                             "{% endfor %}{% endfor %}")
                   .render({}, AddGenerationPrompt::no),
               Error);
}

// What a template made to hurt would take: the stack, the memory, or the day.
TEST_F(ChatTemplates, HostileTemplatesAreRefused) {
  const auto repeated = [](const std::string& piece, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += piece;
    return text;
  };
  const std::string grow = "{% set ns = namespace(x='0123456789') %}{% for i in range(99999) %}";
  const std::vector<std::string> sources = {
      "{{ 1" + repeated("~1", 200'000) + " }}",
      "{{ 1" + repeated("|string", 200'000) + " }}",
      "{{ messages" + repeated(".a", 200'000) + " }}",
      "{{ messages" + repeated("[0]", 200'000) + " }}",
      "{{ 1" + repeated(" if 1", 200'000) + " }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}",
      "{% set ns = namespace() %}{% set ns.x = ns %}",
      "{% set ns = namespace() %}{% set ns.x = [ns] %}",
      grow + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      grow + "{% set ns.x = ns.x.replace('0', ns.x) %}{% endfor %}",
      grow + "{% set ns.x = ns.x|replace('0', ns.x) %}{% endfor %}",
      grow + "{% set ns.x = ns.x|list|join(ns.x) %}{% endfor %}",
      grow + "{% set ns.x = [ns.x, ns.x, ns.x]|tojson(indent=16) %}{% endfor %}",
      grow + "{% set y = range(99999) %}{% endfor %}",
      grow + "{% for j in range(99999) %}{% endfor %}{% endfor %}",
      "{{ 1" + repeated("2", 99'999) + " }}",
      "{% generation %}{% generation %}a{% endgeneration %}{% endgeneration %}",
      "{{ '\xF0' }}",
      "{{ '\xF0'|trim }}",
      "{{ '\x80' }}"};
  for (const std::string& source : sources) {
    SCOPED_TRACE(source.substr(0, 80));
    EXPECT_THROW(with_template(source).render({}, AddGenerationPrompt::no), Error);
  }
  // At the ends of the numbers.
  const std::string most = "(999999999999999 * 9223 + 372036854785030)";
  const std::string text = "{% set most = " + most + " %}";
  const auto rendered = [&](const std::string& source) {
    return with_template(text + source).render({}, AddGenerationPrompt::no);
  };
  EXPECT_EQ(rendered("{{ most }}"), "9223372036854775807");
  EXPECT_EQ(rendered("{{ 'abcde'[1:5:most] }}"), "b");
  EXPECT_EQ(rendered("{{ 'abcde'[::-1] }}"), "edcba");
  EXPECT_EQ(rendered("{{ range(most - 1, most, 2)|length }}"), "1");
  EXPECT_THROW(rendered("{{ -(-most - 1) }}"), Error);
}

TEST_F(ChatTemplates, MessagesAreOneLineWhateverTheTemplateHolds) {
  for (const char* source : {"{{ a 'x\n\x1b[31m' }}", "{% 'x\n' %}", "{{ 1 \a }}",
                             "{{ raise_exception('x\n\x1b[31m') }}"}) {
    try {
      with_template(source).render({}, AddGenerationPrompt::no);
      ADD_FAILURE() << source;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find_first_of("\n\x1b\a"), std::string::npos)
          << error.what();
    }
  }
}

TEST_F(ChatTemplates, InvalidUtf8InAMessageIsReplaced) {
  const Messages talk = {{"user", "a\xF0"}};
  EXPECT_EQ(with_template("{{ messages[0].content|trim }}").render(talk, AddGenerationPrompt::no),
            "a\xEF\xBF\xBD");
}

TEST_F(ChatTemplates, ErrorsNameTheConstruct) {
  try {
    jinja::parse("a\n{% macro f() %}{% endmacro %}");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "chat template, line 2: the statement 'macro' is not supported");
  }
}

TEST_F(ChatTemplates, TheLossCountsOnAnswersOnly) {
  const Messages talk = {{"user", "Q1"}, {"assistant", "A1"}, {"user", "Q2"}, {"assistant", "A2"}};
  EXPECT_EQ(marked(with_template(family("chatml"), "<|im_end|>").render_pieces(talk)),
            "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[A1<|im_end|>]\n"
            "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[A2<|im_end|>]\n");
  EXPECT_EQ(marked(with_template(family("llama2")).render_pieces(talk)),
            "<s>[INST] Q1 [/INST][ A1 </s>]<s>[INST] Q2 [/INST][ A2 </s>]");
  EXPECT_EQ(marked(with_template(family("zephyr")).render_pieces(talk)),
            "<|user|>\nQ1</s>\n<|assistant|>\n[A1</s>]\n<|user|>\nQ2</s>\n"
            "<|assistant|>\n[A2</s>]\n");
  EXPECT_EQ(marked(with_template(family("generation")).render_pieces(talk)),
            "<user>Q1<assistant>[A1</s>]<user>Q2<assistant>[A2</s>]");
}

TEST_F(ChatTemplates, PiecesJoinToTheRenderedText) {
  const Messages talk = {{"system", "S"}, {"user", "Q"}, {"assistant", "A"}};
  const ChatTemplate chat = with_template(family("llama3"), "<|eot_id|>");
  std::string joined;
  for (const TextPiece& piece : chat.render_pieces(talk)) joined += piece.text;
  EXPECT_EQ(joined, chat.render(talk, AddGenerationPrompt::no));
}

TEST_F(ChatTemplates, ATemplateThatRewritesEarlierTurnsIsRefused) {
  const ChatTemplate chat = with_template(
      "{% for m in messages %}{{ m.role + ':' + (m.content if loop.last else 'cut') + ';' }}"
      "{% endfor %}");
  EXPECT_NO_THROW(chat.render_pieces({{"user", "cut"}, {"assistant", "A"}}));
  EXPECT_THROW(chat.render_pieces({{"user", "Q"}, {"assistant", "A"}, {"user", "Q"}}), Error);
}

TEST_F(ChatTemplates, AMissingTemplateAndTheFingerprint) {
  EXPECT_THROW(ChatTemplate(*Tokenizer::open(kGolden + "llama2")), Error);
  EXPECT_EQ(with_template("a").fingerprint(), with_template("a").fingerprint());
  EXPECT_NE(with_template("a").fingerprint(), with_template("b").fingerprint());
  EXPECT_NE(with_template("a").fingerprint(), with_template("a", "<|eot_id|>").fingerprint());
}

}  // namespace
}  // namespace qat
