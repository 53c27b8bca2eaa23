// What stands beside a tokenizer: bos, eos, chat template.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engine/core/error.h"
#include "models/tokenizer/tokenizer.h"
#include "tests/tokenizer/golden.h"
#include "tests/tokenizer/scratch.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

class TokenizerSettingsTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::copy_file(kGolden + "llama2/tokenizer.json", folder_ / "tokenizer.json");
  }
  ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

TEST_F(TokenizerSettingsTest, ATokenizerAloneIsEnough) {
  const auto tokenizer = Tokenizer::open(folder_.string());
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_EQ(tokenizer->chat_template(), "");
  EXPECT_NE(tokenizer->config_json().find("tokenizer_class"), std::string::npos);
}

TEST_F(TokenizerSettingsTest, TokensComeFromTokenizerConfig) {
  std::ofstream(folder_ / "tokenizer_config.json")
      << R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","chat_template":[
            {"name":"tool","template":"T"},{"name":"default","template":"D"}]})";
  std::ofstream(folder_ / "config.json") << R"({"bos_token_id":7,"eos_token_id":8})";
  const auto tokenizer = Tokenizer::open(folder_.string());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->chat_template(), "D");
}

TEST_F(TokenizerSettingsTest, IdsComeFromConfigWithoutIt) {
  std::ofstream(folder_ / "config.json") << R"({"bos_token_id":1,"eos_token_id":[2,5]})";
  std::ofstream(folder_ / "chat_template.jinja") << "J";
  const auto tokenizer = Tokenizer::open(folder_.string());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->chat_template(), "J");
}

TEST_F(TokenizerSettingsTest, ATemplateThatIsNotUtf8IsRefused) {
  std::ofstream(folder_ / "chat_template.jinja") << "a\xFF";
  try {
    Tokenizer::open(folder_.string());
    FAIL() << "must be refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    EXPECT_NE(std::string(error.what()).find("chat_template.jinja: is not UTF-8 at byte 1"),
              std::string::npos)
        << error.what();
  }
}

TEST_F(TokenizerSettingsTest, AFileThatCannotBeLookedAtIsRefused) {
  fs::create_symlink("tokenizer_config.json", folder_ / "tokenizer_config.json");
  try {
    Tokenizer::open(folder_.string());
    FAIL() << "must be refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    EXPECT_NE(std::string(error.what()).find("symbolic links"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace qat
