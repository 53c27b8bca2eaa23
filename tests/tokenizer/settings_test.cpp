// What stands beside a tokenizer: bos, eos, chat template.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "models/tokenizer/tokenizer.h"
#include "tests/tokenizer/golden.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

fs::path make_folder(const char* name) {
  const fs::path folder = fs::path(testing::TempDir()) / name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  fs::copy_file(kGolden + "llama2/tokenizer.json", folder / "tokenizer.json");
  return folder;
}

TEST(TokenizerSettings, ATokenizerAloneIsEnough) {
  const auto tokenizer = Tokenizer::open(make_folder("settings_alone").string());
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_EQ(tokenizer->chat_template(), "");
  EXPECT_NE(tokenizer->config_json().find("tokenizer_class"), std::string::npos);
}

TEST(TokenizerSettings, TokensComeFromTokenizerConfig) {
  const fs::path folder = make_folder("settings_config");
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","chat_template":[
            {"name":"tool","template":"T"},{"name":"default","template":"D"}]})";
  std::ofstream(folder / "config.json") << R"({"bos_token_id":7,"eos_token_id":8})";
  const auto tokenizer = Tokenizer::open(folder.string());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->chat_template(), "D");
}

TEST(TokenizerSettings, IdsComeFromConfigWithoutIt) {
  const fs::path folder = make_folder("settings_ids");
  std::ofstream(folder / "config.json") << R"({"bos_token_id":1,"eos_token_id":[2,5]})";
  std::ofstream(folder / "chat_template.jinja") << "J";
  const auto tokenizer = Tokenizer::open(folder.string());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->chat_template(), "J");
}

}  // namespace
}  // namespace qat
