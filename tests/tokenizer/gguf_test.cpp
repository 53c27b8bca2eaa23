// A tokenizer written into GGUF metadata gives the ids of the tokenizer.json it came from.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "engine/core/error.h"
#include "models/tokenizer/sentencepiece_proto.h"
#include "models/tokenizer/tokenizer.h"
#include "tests/tokenizer/golden.h"
#include "tests/tokenizer/scratch.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// A GGUF file without tensors: just metadata.
class GgufWriter {
 public:
  void text(const std::string& key, const std::string& value) {
    begin(key, 8);
    string(value);
  }
  void number(const std::string& key, uint32_t value) {
    begin(key, 4);
    raw(value);
  }
  void flag(const std::string& key, bool value) {
    begin(key, 7);
    raw(uint8_t(value));
  }
  void texts(const std::string& key, const std::vector<std::string>& values) {
    begin_array(key, 8, values.size());
    for (const std::string& value : values) string(value);
  }
  template <class T>
  void numbers(const std::string& key, uint32_t type, const std::vector<T>& values) {
    begin_array(key, type, values.size());
    for (const T value : values) raw(value);
  }
  std::string save(ScratchFolder& scratch) const {
    const fs::path path = scratch.make_folder() / "tokenizer.gguf";
    std::ofstream file(path, std::ios::binary);
    const uint32_t version = 3;
    const uint64_t tensors = 0, keys = keys_;
    file.write("GGUF", 4);
    file.write(reinterpret_cast<const char*>(&version), 4);
    file.write(reinterpret_cast<const char*>(&tensors), 8);
    file.write(reinterpret_cast<const char*>(&keys), 8);
    file << body_ << std::string(64 - (24 + body_.size()) % 32, '\0');
    return path.string();
  }

 private:
  template <class T>
  void raw(T value) {
    body_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void string(const std::string& value) {
    raw(uint64_t(value.size()));
    body_ += value;
  }
  void begin(const std::string& key, uint32_t type) {
    ++keys_;
    string(key);
    raw(type);
  }
  void begin_array(const std::string& key, uint32_t type, size_t count) {
    begin(key, 9);
    raw(type);
    raw(uint64_t(count));
  }

  std::string body_;
  uint64_t keys_ = 0;
};

GgufWriter writer_for(const std::string& golden, const std::string& pre) {
  const Json document = read_golden_json(golden);
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  const auto put = [&](size_t id, const std::string& text, int32_t type) {
    if (id >= tokens.size()) tokens.resize(id + 1), types.resize(id + 1, 1);
    tokens[id] = text;
    types[id] = type;
  };
  for (const auto& [piece, id] : document["model"]["vocab"].items()) put(id, piece, 1);
  for (const Json& added : document["added_tokens"])
    put(added["id"], added["content"], added["special"].get<bool>() ? 3 : 4);
  for (const Json& merge : document["model"]["merges"])
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.text("tokenizer.ggml.model", "gpt2");
  writer.text("tokenizer.ggml.pre", pre);
  writer.texts("tokenizer.ggml.tokens", tokens);
  writer.numbers("tokenizer.ggml.token_type", 5, types);
  writer.texts("tokenizer.ggml.merges", merges);
  writer.number("tokenizer.ggml.bos_token_id", 0);
  writer.number("tokenizer.ggml.eos_token_id", 1);
  return writer;
}

class GgufStyles : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(GgufStyles, GiveTheIdsOfTheirTokenizerJson) {
  const auto& [golden, pre] = GetParam();
  ScratchFolder scratch;
  GgufWriter writer = writer_for(golden, pre);
  writer.text("tokenizer.chat_template", "{{ messages }}");
  const auto tokenizer = Tokenizer::open(writer.save(scratch));
  const auto source = Tokenizer::open(kGolden + golden);
  EXPECT_EQ(tokenizer->vocab_size(), source->vocab_size());
  EXPECT_EQ(tokenizer->bos_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->chat_template(), "{{ messages }}");
  EXPECT_NE(tokenizer->config_json().find("{{ messages }}"), std::string::npos);
  for (const GoldenCase& expected : read_cases(golden)) {
    EXPECT_EQ(tokenizer->encode(expected.text), expected.ids);
    EXPECT_EQ(tokenizer->encode_with_special(expected.text),
              source->encode_with_special(expected.text));
    EXPECT_EQ(tokenizer->decode(expected.ids, true), expected.shown);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufStyles,
                         testing::Values(std::pair("smollm", "smollm"),
                                         std::pair("llama3", "llama-bpe"),
                                         std::pair("qwen2", "qwen2")),
                         [](const auto& info) { return std::string(info.param.first); });

TEST(GgufTokenizer, UnknownKindsAreRefusedByName) {
  ScratchFolder scratch;
  const auto message = [&](const GgufWriter& writer) -> std::string {
    try {
      Tokenizer::open(writer.save(scratch));
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_NE(message(writer_for("smollm", "jais")).find("jais"), std::string::npos);
  GgufWriter bert;
  bert.text("tokenizer.ggml.model", "bert");
  EXPECT_NE(message(bert).find("bert"), std::string::npos);
  GgufWriter none;
  none.text("general.architecture", "llama");
  EXPECT_NE(message(none).find("no tokenizer"), std::string::npos);
  GgufWriter bad_id = writer_for("smollm", "smollm");
  bad_id.number("tokenizer.ggml.padding_token_id", 4000000);
  EXPECT_NE(message(bad_id).find("padding_token_id"), std::string::npos);
  GgufWriter scoreless;
  scoreless.text("tokenizer.ggml.model", "llama");
  scoreless.texts("tokenizer.ggml.tokens", {"<unk>", "a"});
  EXPECT_NE(message(scoreless).find("scores"), std::string::npos);
}

// Real data: stories260k has the same tokenizer as tokenizer.json and as tokenizer.model; a GGUF is
// made from the latter.
class Stories : public testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("QAT_TEST_DATA");
    if (data == nullptr) GTEST_SKIP() << "QAT_TEST_DATA is not set";
    folder_ = fs::path(data);
    model_folder_ = scratch_.make_folder();
    fs::copy_file(folder_ / "stories260k/tokenizer.model", model_folder_ / "tokenizer.model");
    for (const GoldenCase& golden : read_cases("llama2")) texts_.push_back(golden.text);
    std::ifstream stories(folder_ / "text/tinystories_valid.jsonl");
    for (std::string line; std::getline(stories, line);)
      texts_.push_back(Json::parse(line)["text"]);
  }

  ScratchFolder scratch_;
  fs::path folder_, model_folder_;
  std::vector<std::string> texts_;
};

TEST_F(Stories, LibraryAndTokenizerJsonAgree) {
  const auto json = Tokenizer::open((folder_ / "stories260k").string());
  const auto model = Tokenizer::open(model_folder_.string());
  EXPECT_EQ(json->vocab_size(), model->vocab_size());
  EXPECT_EQ(json->bos_id(), model->bos_id());
  for (const std::string& text : texts_) {
    const std::vector<int32_t> ids = json->encode(text);
    EXPECT_EQ(ids, model->encode(text)) << text.substr(0, 80);
    EXPECT_EQ(json->encode_with_special(text), model->encode_with_special(text));
    EXPECT_EQ(json->decode(ids, false), model->decode(ids, false));
  }
}

TEST_F(Stories, WrittenTokenizerJsonAndGgufAgreeToo) {
  const auto model = Tokenizer::open(model_folder_.string());
  const fs::path written = scratch_.make_folder();
  write_file(written / "tokenizer.json", model->to_json());
  const auto json = Tokenizer::open(written.string());

  std::ifstream file(model_folder_ / "tokenizer.model", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const SentencePieceProto proto = read_sentencepiece_proto(bytes, "tokenizer.model");
  std::vector<int32_t> types;
  for (const PieceType type : proto.types) types.push_back(int32_t(type));
  GgufWriter writer;
  writer.text("tokenizer.ggml.model", "llama");
  writer.text("tokenizer.ggml.pre", "default");
  writer.texts("tokenizer.ggml.tokens", proto.pieces);
  writer.numbers("tokenizer.ggml.scores", 6,
                 std::vector<float>(proto.scores.begin(), proto.scores.end()));
  writer.numbers("tokenizer.ggml.token_type", 5, types);
  writer.number("tokenizer.ggml.bos_token_id", 1);
  writer.number("tokenizer.ggml.eos_token_id", 2);
  writer.flag("tokenizer.ggml.add_bos_token", true);
  const auto gguf = Tokenizer::open(writer.save(scratch_));
  for (const std::string& text : texts_) {
    const std::vector<int32_t> ids = model->encode(text);
    EXPECT_EQ(json->encode(text), ids);
    EXPECT_EQ(gguf->encode(text), ids);
    EXPECT_EQ(gguf->encode_with_special(text), model->encode_with_special(text));
    EXPECT_EQ(gguf->decode(ids, true), model->decode(ids, true));
  }
}

}  // namespace
}  // namespace qat
