#include "models/source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "engine/io/gguf.h"
#include "engine/io/safetensors.h"
#include "models/families.h"
#include "models/gguf_names.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::Folder;
using test::raw;
using test::refusal;

ModelConfig small_config() {
  ModelConfig c;
  c.hidden = 16, c.ffn = 24, c.layers = 1, c.heads = 4, c.kv_heads = 2, c.head_dim = 4;
  c.vocab = 10, c.max_positions = 64;
  return c;
}

// Element i of a tensor: tells tensors and rows apart.
float value(const std::string& name, int64_t i) {
  return float(name.size()) + 0.125f * float(i);
}

using Tensors = std::map<std::string, Shape>;

class Directory : public ::testing::Test {
 protected:
  void SetUp() override { use(small_config()); }
  void use(const ModelConfig& config) {
    tensors_.clear();
    for (const SourceTensor& tensor : expected_tensors(config))
      tensors_[tensor.name] = tensor.shape;
    folder_.write("config.json", config_to_huggingface(config));
  }
  void write() {
    std::vector<SafetensorsEntry> entries;
    for (const auto& [name, shape] : tensors_) entries.push_back({name, StoredType::f32, shape});
    write_safetensors(folder_.file("model.safetensors"), entries,
                      [&](const SafetensorsEntry& entry, const ByteSink& sink) {
                        const auto like = same_as_.find(entry.name);
                        const std::string& from =
                            like == same_as_.end() ? entry.name : like->second;
                        std::vector<float> values(size_t(entry.shape.count()));
                        for (size_t i = 0; i < values.size(); ++i)
                          values[i] = value(from, int64_t(i));
                        if (entry.name == poisoned_) values[3] = poison_;
                        sink(values.data(), values.size() * 4);
                      });
  }
  std::string refused() {
    write();
    return refusal([&] { ModelSource::open(folder_.path()); });
  }

  Folder folder_;
  Tensors tensors_;
  std::map<std::string, std::string> same_as_;
  std::string poisoned_;
  float poison_ = 0;
};
class fault_E4 : public Directory {};
class fault_E5 : public Directory {};

TEST_F(Directory, Reads) {
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {2};  // old checkpoints have it
  write();
  const auto source = ModelSource::open(folder_.path());
  EXPECT_EQ(source->tensors().size(), 12u);
  EXPECT_EQ(source->tensors().front().name, "model.embed_tokens.weight");
  EXPECT_EQ(source->config_json(), test::bytes_of(folder_.file("config.json")));
  std::vector<float> out(10 * 16);
  source->read("lm_head.weight", out.data());
  EXPECT_EQ(out[7], value("lm_head.weight", 7));
}

TEST_F(fault_E4, AConfigurationTruncatedAtEveryByte) {
  write();
  const std::string whole = test::bytes_of(folder_.file("config.json"));
  const size_t end = whole.rfind('}');
  for (size_t size = 0; size <= end; ++size) {
    SCOPED_TRACE(size);
    folder_.write("config.json", whole.substr(0, size));
    expect_mentions(refusal([&] { ModelSource::open(folder_.path()); }), "config.json");
  }
}

TEST_F(fault_E4, AnIndexTruncatedAtEveryByte) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, shape] : tensors_) entries.push_back({name, StoredType::f32, shape});
  write_safetensors_directory(folder_.path(), entries, 2000,
                              [](const SafetensorsEntry& entry, const ByteSink& sink) {
                                const std::vector<float> zeros(size_t(entry.shape.count()));
                                sink(zeros.data(), zeros.size() * 4);
                              });
  ASSERT_NO_THROW(ModelSource::open(folder_.path()));
  const std::string name = "model.safetensors.index.json";
  const std::string whole = test::bytes_of(folder_.file(name));
  for (size_t size = 0; size <= whole.rfind('}'); ++size) {
    SCOPED_TRACE(size);
    folder_.write(name, whole.substr(0, size));
    expect_mentions(refusal([&] { ModelSource::open(folder_.path()); }), name);
  }
}

TEST_F(fault_E5, RefusesTensorsAtOddsWithTheConfiguration) {
  tensors_["model.layers.0.mlp.up_proj.weight"] = {24, 17};
  expect_mentions(refused(), "[24, 17]");
  SetUp();
  tensors_["model.embed_tokens.weight"] = {11, 16};
  expect_mentions(refused(), "model.embed_tokens.weight");
  SetUp();
  tensors_.erase("model.norm.weight");
  expect_mentions(refused(), "model.norm.weight is missing");
  SetUp();
  tensors_["model.layers.1.mlp.up_proj.weight"] = {24, 16};
  expect_mentions(refused(), "model.layers.1.mlp.up_proj.weight");
  SetUp();
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {16};
  expect_mentions(refused(), "q_proj.bias");
}

TEST_F(fault_E5, TiedAndUntiedHeads) {
  tensors_.erase("lm_head.weight");
  expect_mentions(refused(), "not tied");
  ModelConfig tied = small_config();
  tied.tied_head = true;
  use(tied);
  write();
  EXPECT_EQ(ModelSource::open(folder_.path())->tensors().size(), 11u);
  // Stored a second time: the same values pass, others are at odds.
  tensors_["lm_head.weight"] = {10, 16};
  same_as_["lm_head.weight"] = "model.embed_tokens.weight";
  write();
  EXPECT_EQ(ModelSource::open(folder_.path())->tensors().size(), 11u);
  same_as_.clear();
  expect_mentions(refused(), "lm_head.weight differs");
}

TEST_F(fault_E5, RefusesNonFiniteValuesByTensor) {
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    poisoned_ = "model.layers.0.mlp.gate_proj.weight";
    poison_ = poison;
    write();
    const auto source = ModelSource::open(folder_.path());
    std::vector<float> out(24 * 16);
    const std::string message = refusal([&] { source->read(poisoned_, out.data()); });
    expect_mentions(message, poisoned_);
    expect_mentions(message, "element 3");
  }
}

TEST_F(fault_E5, RefusesWhatIsNoModel) {
  expect_mentions(refusal([&] { ModelSource::open(folder_.file("none")); }), "does not exist");
  expect_mentions(refusal([&] { ModelSource::open(folder_.path()); }), "no model.safetensors");
  folder_.write("pytorch_model.bin", "x");
  expect_mentions(refusal([&] { ModelSource::open(folder_.path()); }), "pytorch_model.bin");
  expect_mentions(refusal([&] { ModelSource::open(folder_.write("x.txt", "hello")); }), "GGUF");
  const Folder empty;
  expect_mentions(refusal([&] { ModelSource::open(empty.path()); }), "config.json");
}

// A GGUF file of the small configuration, F32.
class GgufModel : public ::testing::Test {
 protected:
  static std::string text(std::string_view t) { return raw(uint64_t(t.size())) + std::string(t); }
  void number(const std::string& key, uint32_t v) { keys_[key] = raw(uint32_t(4)) + raw(v); }
  void real(const std::string& key, float v) { keys_[key] = raw(uint32_t(6)) + raw(v); }
  void words(const std::string& key, std::string_view v) {
    keys_[key] = raw(uint32_t(8)) + text(v);
  }

  void SetUp() override { use("llama", small_config()); }
  void use(const std::string& arch, const ModelConfig& c) {
    keys_.clear();
    extra_.clear();
    words("general.architecture", arch);
    number(arch + ".context_length", 64);
    number(arch + ".embedding_length", uint32_t(c.hidden));
    number(arch + ".block_count", uint32_t(c.layers));
    number(arch + ".feed_forward_length", uint32_t(c.ffn));
    number(arch + ".attention.head_count", uint32_t(c.heads));
    number(arch + ".attention.head_count_kv", uint32_t(c.kv_heads));
    real(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
    real(arch + ".rope.freq_base", 500000.0f);
    config_ = c;
  }
  std::string file() {
    std::vector<std::pair<std::string, std::vector<float>>> tensors;
    std::vector<Shape> shapes;
    for (const SourceTensor& tensor : expected_tensors(config_)) {
      std::vector<float> values(size_t(tensor.shape.count()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = value(tensor.name, int64_t(i));
      tensors.emplace_back(gguf_name(tensor.name), std::move(values));
      shapes.push_back(tensor.shape);
    }
    for (const auto& [name, values] : extra_) {
      tensors.emplace_back(name, values);
      shapes.push_back({int64_t(values.size())});
    }
    std::string out =
        "GGUF" + raw(uint32_t(3)) + raw(uint64_t(tensors.size())) + raw(uint64_t(keys_.size()));
    for (const auto& [key, v] : keys_) out += text(key) + v;
    uint64_t offset = 0;
    std::string data;
    for (size_t t = 0; t < tensors.size(); ++t) {
      out += text(tensors[t].first) + raw(uint32_t(shapes[t].rank()));
      for (int d = shapes[t].rank(); d-- > 0;) out += raw(uint64_t(shapes[t][d]));
      out += raw(uint32_t(0)) + raw(offset);
      for (float v : tensors[t].second) data += raw(v);
      data.resize((data.size() + 31) / 32 * 32, '\0');
      offset = data.size();
    }
    out.resize((out.size() + 31) / 32 * 32, '\0');
    return folder_.write("m.gguf", out + data);
  }
  std::string refused() {
    const std::string path = file();
    return refusal([&] { ModelSource::open(path); });
  }

  Folder folder_;
  ModelConfig config_;
  std::map<std::string, std::string> keys_;
  std::map<std::string, std::vector<float>> extra_;
};

TEST_F(GgufModel, LlamaRowsOfQAndKComeBackInHalves) {
  const auto source = ModelSource::open(file());
  EXPECT_EQ(source->config().rope_theta, 500000.0);
  EXPECT_FALSE(source->config().tied_head);
  std::vector<float> out(16 * 16);
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  source->read(q, out.data());
  // Heads of 4 rows: stored 0 1 2 3 are Hugging Face's 0 2 1 3.
  const int stored_row[4] = {0, 2, 1, 3};
  for (int row = 0; row < 16; ++row)
    for (int c = 0; c < 16; ++c)
      ASSERT_EQ(out[size_t(row * 16 + c)], value(q, (row / 4 * 4 + stored_row[row % 4]) * 16 + c));
  const std::string v = "model.layers.0.self_attn.v_proj.weight";
  source->read(v, out.data());
  EXPECT_EQ(out[17], value(v, 17));
}

TEST_F(GgufModel, QwenRowsStayWhereTheyAre) {
  ModelConfig c = small_config();
  c.qkv_bias = true;
  use("qwen2", c);
  const auto source = ModelSource::open(file());
  EXPECT_EQ(source->config().architecture, "qwen2");
  std::vector<float> out(16 * 16);
  source->read("model.layers.0.self_attn.q_proj.weight", out.data());
  EXPECT_EQ(out[16], value("model.layers.0.self_attn.q_proj.weight", 16));
  source->read("model.layers.0.self_attn.q_proj.bias", out.data());
  EXPECT_EQ(out[1], value("model.layers.0.self_attn.q_proj.bias", 1));
}

TEST_F(GgufModel, FindsTheLlama3ScalingAgain) {
  config_.head_dim = 64;
  number("llama.attention.key_length", 64);
  number("llama.attention.value_length", 64);
  // The formula of a llama3 scaling: factor 8, low 1, high 4, 8192 positions.
  std::vector<float> divisors;
  for (int i = 0; i < 32; ++i) {
    const double wavelength = 2 * M_PI * std::pow(500000.0, 2.0 * i / 64);
    const double s = (8192 / wavelength - 1) / 3;
    divisors.push_back(wavelength < 2048   ? 1.0f
                       : wavelength > 8192 ? 8.0f
                                           : float(1 / ((1 - s) / 8 + s)));
  }
  extra_["rope_freqs.weight"] = divisors;
  const auto source = ModelSource::open(file());
  EXPECT_EQ(source->config().rope_scaling, RopeScaling::llama3);
  EXPECT_EQ(source->config().rope_factor, 8.0);
  EXPECT_EQ(source->config().rope_original_positions, 8192);
  EXPECT_TRUE(source->config().rope_freq_divisors.empty());
  expect_mentions(source->config_json(), "\"llama3\"");
  extra_["rope_freqs.weight"][20] = 3.0f;
  const auto odd = ModelSource::open(file());
  EXPECT_EQ(odd->config().rope_freq_divisors.size(), 32u);
  expect_mentions(refusal([&] { odd->config_json(); }), "rope_freqs.weight");
}

TEST_F(GgufModel, RefusesByName) {
  number("llama.expert_count", 8);
  expect_mentions(refused(), "llama.expert_count");
  SetUp();
  number("llama.attention.sliding_window", 128);
  expect_mentions(refused(), "sliding_window");
  SetUp();
  words("llama.rope.scaling.type", "yarn");
  expect_mentions(refused(), "yarn");
  SetUp();
  number("llama.rope.dimension_count", 2);
  expect_mentions(refused(), "rope.dimension_count");
  SetUp();
  number("llama.vocab_size", 11);
  expect_mentions(refused(), "vocab_size");
  SetUp();
  number("llama.attention.head_count_kv", 3);
  expect_mentions(refused(), "key/value heads");
  SetUp();
  number("llama.block_count", 1'000'000'000);
  expect_mentions(refused(), "layers");
  SetUp();
  words("general.architecture", "gemma");
  expect_mentions(refused(), "gemma");
  SetUp();
  extra_["blk.0.ffn_gate_inp.weight"] = {1.0f};
  expect_mentions(refused(), "ffn_gate_inp");
  SetUp();
  extra_["rope_freqs.weight"] = {1.0f, -1.0f};
  expect_mentions(refused(), "rope_freqs.weight");
  SetUp();
  keys_.erase("llama.attention.layer_norm_rms_epsilon");
  expect_mentions(refused(), "layer_norm_rms_epsilon");
}

TEST(GgufNames, TranslateBothWays) {
  ModelConfig c = small_config();
  c.qkv_bias = c.qk_norm = true;
  for (const SourceTensor& tensor : expected_tensors(c))
    EXPECT_EQ(huggingface_name(gguf_name(tensor.name)), tensor.name);
  for (const char* name : {"blk.0.x.weight", "blk..attn_q.weight", "blk.01.attn_q.weight",
                           "blk.0.attn_q", "blk.1234567.attn_q.weight", "", "output"})
    EXPECT_EQ(huggingface_name(name), "") << name;
}

TEST(Source, RealModel) {
  const char* data = std::getenv("QAT_TEST_DATA");
  if (!data) GTEST_SKIP() << "QAT_TEST_DATA is not set";
  const auto source = ModelSource::open(std::string(data) + "/stories260k");
  EXPECT_EQ(source->config().parameters(), 260'032);
  EXPECT_TRUE(source->config().tied_head);
  std::vector<float> embedding(512 * 64);
  source->read("model.embed_tokens.weight", embedding.data());
  double squares = 0;
  for (float v : embedding) squares += double(v) * v;
  EXPECT_GT(squares, 1.0);
}

}  // namespace
}  // namespace qat
