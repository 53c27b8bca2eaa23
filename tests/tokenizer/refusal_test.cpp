// What cannot be read exactly is refused by name; hostile files end in an error, never in a crash.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "engine/core/error.h"
#include "models/tokenizer/tokenizer.h"
#include "tests/tokenizer/golden.h"
#include "tests/tokenizer/scratch.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// One fixture, so that every test has a folder of its own.
class TokenizerFiles : public testing::Test {
 protected:
  std::string folder_with(const std::string& file, const std::string& content) {
    const fs::path folder = scratch_.make_folder();
    write_file(folder / file, content);
    return folder.string();
  }

  // The message with which a tokenizer.json is refused; "" when it is not.
  std::string refusal(const std::string& json) {
    try {
      Tokenizer::open(folder_with("tokenizer.json", json));
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::refused);
      return error.what();
    }
  }

  std::string changed(const std::function<void(Json&)>& change) {
    Json document = read_golden_json("smollm");
    change(document);
    return refusal(document.dump());
  }

 private:
  ScratchFolder scratch_;
};

class fault_E7 : public TokenizerFiles {};

Json of_type(const char* type) {
  return Json{{"type", type}};
}

TEST_F(fault_E7, NamesWhatItCannotFollow) {
  using testing::PrintToString;
  const std::vector<std::pair<std::string, std::function<void(Json&)>>> cases = {
      {"WordPiece", [](Json& d) { d["model"]["type"] = "WordPiece"; }},
      {"Unigram", [](Json& d) { d["model"]["type"] = "Unigram"; }},
      {"Lowercase", [](Json& d) { d["normalizer"] = of_type("Lowercase"); }},
      {"NFKC", [](Json& d) { d["normalizer"] = of_type("NFKC"); }},
      {"Sparkle", [](Json& d) { d["normalizer"] = of_type("Sparkle"); }},
      {"BertPreTokenizer", [](Json& d) { d["pre_tokenizer"] = of_type("BertPreTokenizer"); }},
      {"WordPiece", [](Json& d) { d["decoder"] = of_type("WordPiece"); }},
      {"Surprise", [](Json& d) { d["post_processor"] = of_type("Surprise"); }},
      {"dropout", [](Json& d) { d["model"]["dropout"] = 0.1; }},
      {"end_of_word_suffix", [](Json& d) { d["model"]["end_of_word_suffix"] = "</w>"; }},
      {"continuing_subword_prefix",
       [](Json& d) { d["model"]["continuing_subword_prefix"] = "##"; }},
      {"version", [](Json& d) { d["version"] = "2.0"; }},
      {"no model", [](Json& d) { d.erase("model"); }},
      {"model.vocab", [](Json& d) { d["model"].erase("vocab"); }},
      {"not in model.vocab",
       [](Json& d) {
         d["model"]["merges"].push_back({"zz", "qq"});
       }},
      {"not in model.vocab",
       [](Json& d) {
         d["model"]["merges"].push_back({"a", "\u0120the\u0120the"});
       }},
      {"is empty",
       [](Json& d) {
         d["model"]["merges"].push_back({"", "a"});
       }},
      {"exactly one space", [](Json& d) { d["model"]["merges"] = {"a b c"}; }},
      {"already that of", [](Json& d) { d["model"]["vocab"]["more"] = 5; }},
      {"token id", [](Json& d) { d["model"]["vocab"]["more"] = 4000000000u; }},
      {"token id", [](Json& d) { d["model"]["vocab"]["more"] = -1; }},
      {"whole number, got a fraction", [](Json& d) { d["model"]["vocab"]["more"] = 1.5; }},
      {"whole number", [](Json& d) { d["model"]["vocab"]["more"] = "1"; }},
      {"would give it", [](Json& d) { d["added_tokens"][1]["id"] = 30000; }},
      {"exactly once", [](Json& d) {
         d["post_processor"] = {{"type", "TemplateProcessing"}, {"single", Json::array()}};
       }}};
  for (const auto& [part, change] : cases) {
    const std::string message = changed(change);
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST_F(fault_E7, NamesRegularExpressionsThatTheDialectsMayReadDifferently) {
  for (const char* pattern :
       {"^a", "a$", "\\bx", "\\w+", "[a&&b]", "[[:alpha:]]", "(?i:straSSe)", "(?i:ss)", "\\p{Han}",
        "\\h", "a{,3}", "(?<name>a)", "a**", "(a", "[a", "\\", "(?m)a", "\\1"}) {
    const std::string message = changed([&](Json& d) {
      d["pre_tokenizer"] = {{"type", "Split"},
                            {"pattern", {{"Regex", pattern}}},
                            {"behavior", "Isolated"},
                            {"invert", false}};
    });
    EXPECT_NE(message.find("regular expression"), std::string::npos) << pattern << ": " << message;
  }
}

TEST_F(fault_E7, SurvivesTruncationAtEveryByte) {
  const std::string whole = read_golden_json("smollm").dump();
  for (size_t length = 0; length < whole.size(); length += length < 600 ? 1 : 97)
    EXPECT_NE(refusal(whole.substr(0, length)), "") << length;
}

TEST_F(fault_E7, DeepNestingDuplicateKeysAndTrailingText) {
  EXPECT_NE(refusal(std::string(100000, '[')), "");
  EXPECT_NE(refusal("{\"model\":" + std::string(100000, '{')), "");
  EXPECT_NE(refusal("{\"model\":{},\"model\":{}}"), "");
  for (const char* model :
       {R"("vocab":{"a":0,"a":1},"merges":[])", R"("vocab":{"a":0},"vocab":{"b":1},"merges":[])",
        R"("vocab":{"a":0},"merges":[],"merges":[])", R"("vocab":null,"vocab":{},"merges":[])"})
    EXPECT_NE(refusal("{\"model\":{" + std::string(model) + "}}").find("duplicate key"),
              std::string::npos)
        << model;
  EXPECT_NE(refusal(read_golden_json("smollm").dump() + "x"), "");
  EXPECT_NE(refusal(""), "");
  EXPECT_NE(refusal("[]"), "");
}

TEST_F(fault_E7, DeepSequencesAreRefused) {
  Json nested = of_type("NFC");
  for (int i = 0; i < 40; ++i) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
  EXPECT_NE(changed([&](Json& d) { d["normalizer"] = nested; }), "");
}

TEST_F(fault_E7, FoldersWithoutATokenizer) {
  EXPECT_THROW(Tokenizer::open("/nonexistent/model"), Error);
  EXPECT_THROW(Tokenizer::open(folder_with("config.json", "{}")), Error);
  EXPECT_THROW(Tokenizer::open(folder_with("vocab.txt", "a\n")), Error);
  EXPECT_THROW(Tokenizer::open(folder_with("tokenizer.model", "\x0a\xff")), Error);
  EXPECT_THROW(Tokenizer::open(folder_with("tokenizer.model", "")), Error);
  EXPECT_THROW(Tokenizer::open(folder_with("x.gguf", "GGUF") + "/x.gguf"), Error);
}

TEST_F(fault_E7, InvalidUtf8IsRefused) {
  std::string text = read_golden_json("smollm").dump();
  const size_t at = text.find("\"content\":\"");
  ASSERT_NE(at, std::string::npos);
  text.insert(at + 11, "\xFF");
  EXPECT_NE(refusal(text).find("not valid JSON"), std::string::npos);
}

TEST_F(fault_E7, MergesOfAPieceWithItselfEnd) {
  Json document = read_golden_json("smollm");
  document["model"]["vocab"] = {{"a", 0},  {"aa", 1}, {"aaaa", 2}, {"b", 3},
                                {"ab", 4}, {"ba", 5}, {"aba", 6}};
  document["model"]["merges"] = {"a a", "aa aa", "a b", "b a", "ab a", "a ba"};
  document["added_tokens"] = Json::array();
  document["post_processor"] = nullptr;
  const auto tokenizer = Tokenizer::open(folder_with("tokenizer.json", document.dump()));
  EXPECT_EQ(tokenizer->encode("aaaaaaa"), (std::vector<int32_t>{2, 1, 0}));
  EXPECT_EQ(tokenizer->encode("aba"), std::vector<int32_t>{6});
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(std::string(1001, 'a')), false),
            std::string(1001, 'a'));
}

TEST_F(fault_E7, IdGapsAreFine) {
  Json document = read_golden_json("llama2");
  document["model"]["vocab"]["\u4e01"] = 70000;
  const auto tokenizer = Tokenizer::open(folder_with("tokenizer.json", document.dump()));
  EXPECT_EQ(tokenizer->vocab_size(), 70001);
  const std::vector<int32_t> ids = tokenizer->encode("\u4e01");
  EXPECT_EQ(ids.back(), 70000);
  EXPECT_EQ(tokenizer->decode({ids.back(), 60000, 70001, -5, 1 << 30}, false), "\u4e01");
}

TEST_F(fault_E7, AMillionMerges) {
  // Every pair of 1000 two-letter pieces.
  Json vocab = Json::object(), merges = Json::array();
  std::vector<std::string> pieces;
  int id = 0;
  const auto add = [&](const std::string& piece) {
    if (!vocab.contains(piece)) vocab[piece] = id++;
  };
  for (int i = 0; i < 1000; ++i) {
    const std::string left(1, char('a' + i / 40)), right(1, char('A' + i % 40));
    pieces.push_back(left + right);
    add(left);
    add(right);
    merges.push_back(left + " " + right);
  }
  for (const std::string& piece : pieces) add(piece);
  for (const std::string& left : pieces)
    for (const std::string& right : pieces) {
      add(left + right);
      merges.push_back(left + " " + right);
    }
  Json document = read_golden_json("smollm");
  document["model"]["vocab"] = std::move(vocab);
  document["model"]["merges"] = std::move(merges);
  document["added_tokens"] = Json::array();
  const auto tokenizer = Tokenizer::open(folder_with("tokenizer.json", document.dump()));
  EXPECT_EQ(tokenizer->encode("aAaB").size(), 1u);
}

}  // namespace
}  // namespace qat
