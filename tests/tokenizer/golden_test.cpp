// Every supported style of tokenizer.json against the golden ids of Hugging Face `tokenizers`.
#include "tests/tokenizer/golden.h"

#include <gtest/gtest.h>

#include <thread>

#include "models/tokenizer/tokenizer.h"
#include "tests/tokenizer/scratch.h"

namespace qat {
namespace {

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, EncodesAndDecodesAsHuggingFace) {
  const auto tokenizer = Tokenizer::open(kGolden + GetParam());
  for (const GoldenCase& expected : read_cases(GetParam())) {
    SCOPED_TRACE(testing::PrintToString(expected.text.substr(0, 60)));
    const std::vector<int32_t> ids = tokenizer->encode(expected.text);
    EXPECT_EQ(ids, expected.ids);
    EXPECT_EQ(tokenizer->encode_with_special(expected.text).size(), ids.size() + expected.added);
    EXPECT_EQ(tokenizer->decode(expected.ids, false), expected.decoded);
    EXPECT_EQ(tokenizer->decode(expected.ids, true), expected.shown);
  }
}

TEST_P(Golden, EncodesTheSameAgainFromItsCache) {
  const auto tokenizer = Tokenizer::open(kGolden + GetParam());
  for (int round = 0; round < 2; ++round)
    for (const GoldenCase& expected : read_cases(GetParam()))
      EXPECT_EQ(tokenizer->encode(expected.text), expected.ids);
}

TEST_P(Golden, WrittenJsonGivesTheSameIds) {
  const auto tokenizer = Tokenizer::open(kGolden + GetParam());
  const ScratchFolder folder;
  write_file(folder.path() / "tokenizer.json", tokenizer->to_json());
  write_file(folder.path() / "tokenizer_config.json", tokenizer->config_json());
  const auto again = Tokenizer::open(folder.path().string());
  EXPECT_EQ(again->fingerprint(), tokenizer->fingerprint());
  for (const GoldenCase& expected : read_cases(GetParam()))
    EXPECT_EQ(again->encode(expected.text), expected.ids);
}

INSTANTIATE_TEST_SUITE_P(Styles, Golden,
                         testing::Values("gpt2", "gpt2_prefix_space", "llama3", "qwen2", "smollm",
                                         "o200k", "llama2", "mistral", "gemma"),
                         [](const auto& info) { return info.param; });

// Byte-level text comes back as it was; the Qwen style composes first, the prefix space stays, and
// the odd tokens of the gpt2 folder swallow spaces.
TEST(GoldenRoundTrip, ByteLevelIsExact) {
  for (const char* name : {"llama3", "smollm", "o200k"}) {
    const auto tokenizer = Tokenizer::open(kGolden + name);
    for (const GoldenCase& expected : read_cases(name))
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(expected.text), false), expected.text) << name;
  }
}

TEST(GoldenThreads, SeveralAtOnceGiveTheSameIds) {
  const auto tokenizer = Tokenizer::open(kGolden + "llama3");
  const std::vector<GoldenCase> cases = read_cases("llama3");
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round)
        for (const GoldenCase& expected : cases)
          wrong[t] += tokenizer->encode(expected.text) != expected.ids;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(GoldenInvalid, EachMaximalPartBecomesOneReplacement) {
  const auto tokenizer = Tokenizer::open(kGolden + "llama3");
  EXPECT_EQ(tokenizer->encode("a\xFF"
                              "b\xE2\x82"),
            tokenizer->encode("a\xEF\xBF\xBD"
                              "b\xEF\xBF\xBD"));
}

}  // namespace
}  // namespace qat
