// A tokenizer written as GGUF keys and read back gives the ids it gave before.
#include "models/tokenizer/gguf_keys.h"

#include <gtest/gtest.h>

#include "engine/io/gguf.h"
#include "tests/io/files.h"
#include "tests/tokenizer/golden.h"

namespace qat {
namespace {

std::string write(const test::Folder& folder, const Tokenizer& tokenizer,
                  const ModelConfig& config) {
  std::vector<GgufKey> keys = {{"general.architecture", std::string("llama")}};
  for (GgufKey& key : tokenizer_keys(&tokenizer, config)) keys.push_back(std::move(key));
  write_gguf(folder.file("t.gguf"), keys, {}, {});
  return folder.file("t.gguf");
}

class GgufKeys : public testing::TestWithParam<const char*> {};

// Added tokens that take white space around them, or stand alone only: GGUF has no word for that.
bool holds_a_flagged_token(const std::string& text) {
  for (const char* token : {"lead", "tail", "wordy"})
    if (text.find(token) != std::string::npos) return true;
  return text.find('\0') != std::string::npos;
}

TEST_P(GgufKeys, GiveTheSameIdsBack) {
  const test::Folder folder;
  const auto tokenizer = Tokenizer::open(kGolden + GetParam());
  ModelConfig config;
  config.vocab = tokenizer->vocab_size() + 3;
  const std::string path = write(folder, *tokenizer, config);
  const auto back = Tokenizer::open(path);
  for (const GoldenCase& c : read_cases(GetParam())) {
    if (holds_a_flagged_token(c.text)) continue;
    EXPECT_EQ(back->encode_with_special(c.text), tokenizer->encode_with_special(c.text)) << c.text;
  }
  const auto file = GgufFile::open(path);
  EXPECT_EQ(int64_t(file->strings("tokenizer.ggml.tokens")->size()), config.vocab);
  EXPECT_EQ(file->strings("tokenizer.ggml.tokens")->back(),
            "[PAD" + std::to_string(config.vocab - 1) + "]");
  EXPECT_EQ(file->integers("tokenizer.ggml.token_type")->back(), 5);
  EXPECT_NE(file->metadata().find("tokenizer.ggml.add_bos_token"), file->metadata().end());
}

INSTANTIATE_TEST_SUITE_P(Golden, GgufKeys,
                         testing::Values("gpt2", "smollm", "qwen2", "llama3", "llama2"));

TEST(GgufKeysRefusal, WhatLlamaCppWouldNotFollow) {
  const auto refused = [](const char* name) {
    const auto tokenizer = Tokenizer::open(kGolden + name);
    ModelConfig config;
    config.vocab = tokenizer->vocab_size();
    return test::refusal([&] { tokenizer_keys(tokenizer.get(), config); });
  };
  test::expect_mentions(refused("o200k"), "none of gpt-2, smollm, llama-bpe and qwen2");
  test::expect_mentions(refused("gpt2_prefix_space"), "space before the text");
  const auto tokenizer = Tokenizer::open(kGolden + "gpt2");
  ModelConfig small;
  small.vocab = 10;
  test::expect_mentions(test::refusal([&] { tokenizer_keys(tokenizer.get(), small); }),
                        "tokens, the model 10");
}

TEST(GgufKeysNone, AFileMayGoWithoutATokenizer) {
  const auto keys = tokenizer_keys(nullptr, {});
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(std::get<std::string>(keys[0].value), "none");
}

}  // namespace
}  // namespace qat
