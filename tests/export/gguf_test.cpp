// GGUF files as the exporter writes them, read back by the reader of models and byte by byte.
#include "models/export/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/core/random.h"
#include "engine/io/gguf.h"
#include "engine/io/gguf_codes.h"
#include "engine/io/gguf_write.h"
#include "models/decoder.h"
#include "models/export/gguf_metadata.h"
#include "models/gguf_names.h"
#include "models/source.h"
#include "tests/export/small_model.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::Folder;
using test::refusal;
using test::small_config;
using test::small_model;

QuantSpec grid(int bits, Per per, Range range) {
  return {bits,
          per,
          per == Per::group ? 32 : 0,
          range,
          ScaleRule::amax,
          ScaleType::f16,
          Division::stored};
}

LinearQuant only(const QuantSpec& weight) {
  return {.weight = weight, .activation = {}};
}

const QuantSpec kQ8 = grid(8, Per::group, Range::strict);
const QuantSpec kQ4 = grid(4, Per::group, Range::full);
const QuantSpec kQ4Minimum = grid(4, Per::group, Range::minimum);

const QuantSpec kQ5 = grid(5, Per::group, Range::full);

// Codes as GGUF holds them: every block of 32 with its own scale.
QuantizedMatrix in_blocks(const QuantizedMatrix& m) {
  if (m.spec.in_super_blocks()) return m;
  QuantizedMatrix out = m;
  out.scales.clear();
  out.zeros.clear();
  for (int64_t row = 0; row < m.shape[0]; ++row)
    for (int64_t k = 0; k < m.shape[1]; k += 32) {
      out.scales.push_back(m.scales[m.scale_index(row, k)]);
      if (!m.zeros.empty()) out.zeros.push_back(m.zeros[m.scale_index(row, k)]);
    }
  return out;
}

struct Case {
  const char* name;
  ModelConfig config;
  LinearQuant quant;
  const char* file;
};

ModelConfig family(const char* architecture) {
  ModelConfig c = small_config();
  c.architecture = architecture;
  c.qkv_bias = c.architecture == "qwen2";
  c.qk_norm = c.architecture == "qwen3";
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3"})
    all.push_back({name, family(name), only(kQ4), "m-Q4_0.gguf"});
  all.push_back({"Q8_0", small_config(), only(kQ8), "m-Q8_0.gguf"});
  all.push_back({"Q4_1", small_config(), only(kQ4Minimum), "m-Q4_1.gguf"});
  all.push_back({"Q5_0", small_config(), only(kQ5), "m-Q5_0.gguf"});
  for (const char* name : {"llama", "qwen3"}) {
    ModelConfig wide = family(name);
    wide.hidden = 256, wide.ffn = 512, wide.head_dim = 64;
    all.push_back({"Q4_K", wide, only(q4_k_grid()), "m-Q4_K.gguf"});
    all.push_back({"Q6_K", wide, only(q6_k_grid()), "m-Q6_K.gguf"});
  }
  all.push_back(
      {"int8 rows", small_config(), only(grid(8, Per::row, Range::strict)), "m-Q8_0.gguf"});
  all.push_back(
      {"int3 of a matrix", small_config(), only(grid(3, Per::tensor, Range::full)), "m-Q4_0.gguf"});
  all.push_back({"floats", small_config(), {}, "m-F16.gguf"});
  ModelConfig c = small_config();
  c.tied_head = true;
  c.rope_scaling = RopeScaling::llama3;
  c.rope_factor = 32.0;
  c.rope_theta = 500000.0;
  all.push_back({"llama3 rope", c, only(kQ8), "m-Q8_0.gguf"});
  c.rope_original_positions = 100;  // no set of parameters the reader knows
  all.push_back({"rope divisors", c, only(kQ8), "m-Q8_0.gguf"});
  c.rope_scaling = RopeScaling::linear;
  all.push_back({"linear rope", c, only(kQ8), "m-Q8_0.gguf"});
  return all;
}

TEST(ExportGguf, ReadsBackInEveryFamilyAndGrid) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Folder folder;
    const ExportModel model = small_model(c.quant, c.config);
    EXPECT_EQ(export_gguf(folder.file("out"), model, {.name = "m"}), folder.file("out/") + c.file);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.file("out")), {}), 1);
    const auto source = ModelSource::open(folder.file("out/") + c.file);
    const QuantPlan plan = source->quantization();
    EXPECT_EQ(planned_linears(plan), c.quant.weight ? 14 : 0);
    for (const ExportTensor& tensor : model.tensors) {
      std::vector<float> expected(size_t(tensor.shape.count())), got(expected.size());
      model.floats(tensor, expected.data());
      source->read(tensor.name, got.data());
      if (tensor.quantized()) {
        EXPECT_EQ(got, expected) << tensor.name;
        EXPECT_EQ(difference(in_blocks(model.codes(tensor)), source->read_codes(tensor.name)), "");
        const LinearQuant& quant = plan.linears.at(tensor.name.substr(0, tensor.name.rfind('.')));
        EXPECT_EQ(quant.weight->has_minimum(), c.quant.weight->has_minimum());
        const bool k_type = c.quant.weight->in_super_blocks();
        EXPECT_EQ(quant.activation->group, k_type ? 256 : 32);
        EXPECT_EQ(quant.activation->scale_type, k_type ? ScaleType::f32 : ScaleType::f16);
        EXPECT_EQ(quant.activation->division, Division::exact);
      } else if (tensor.shape.rank() == 1) {
        EXPECT_EQ(got, expected) << tensor.name;
      } else {
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_EQ(got[i], to_float(to_float16(expected[i]))) << tensor.name;
      }
    }
    const ModelConfig& read = source->config();
    EXPECT_EQ(read.rope_scaling == RopeScaling::linear,
              c.config.rope_scaling == RopeScaling::linear);
    EXPECT_EQ(read.qkv_bias, c.config.qkv_bias);
    EXPECT_EQ(read.tied_head, c.config.tied_head);
  }
}

TEST(ExportGguf, BlocksLieAsGgmlHasThem) {
  int8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = int8_t(i % 16 - 8);
  const float scale = -0.5f, minimum = 2.0f;
  std::byte bytes[34];
  const auto at = [&](int i) { return std::to_integer<int>(bytes[i]); };
  EXPECT_TRUE(pack_block(GgufType::q4_0, codes, &scale, nullptr, bytes));
  EXPECT_EQ(at(0) | at(1) << 8, 0xB800);  // -0.5 in f16
  for (int j = 0; j < 16; ++j) EXPECT_EQ(at(2 + j), j | j << 4);
  EXPECT_TRUE(pack_block(GgufType::q4_1, codes, &scale, &minimum, bytes));
  EXPECT_EQ(at(2) | at(3) << 8, 0x4000);
  for (int j = 0; j < 16; ++j) EXPECT_EQ(at(4 + j), j | j << 4);
  float values[32];
  decode_blocks(GgufType::q4_1, bytes, 1, values);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(values[i], float(i % 16) * -0.5f + 2.0f);
  codes[3] = -128;
  EXPECT_TRUE(pack_block(GgufType::q8_0, codes, &scale, nullptr, bytes));
  EXPECT_EQ(int8_t(at(2 + 3)), -128);
  const float third = 1.0f / 3.0f;
  EXPECT_FALSE(pack_block(GgufType::q8_0, codes, &third, nullptr, bytes)) << "not a number of f16";
}

constexpr GgufType kCodeTypes[] = {GgufType::q8_0, GgufType::q4_0, GgufType::q4_1,
                                   GgufType::q5_0, GgufType::q4_k, GgufType::q6_k};

// Bytes of anyone: the halves are finite, all else is random.
std::vector<std::byte> random_block(GgufType type, uint64_t index) {
  std::vector<std::byte> bytes(size_t(gguf_block(uint32_t(type))->bytes));
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = std::byte(philox(index, uint64_t(type), i)[0]);
  const auto calm = [&](size_t at) { bytes[at + 1] &= std::byte(0xBF); };  // exponents up to 15
  calm(type == GgufType::q6_k ? 208 : 0);
  if (type == GgufType::q4_1 || type == GgufType::q4_k) calm(2);
  return bytes;
}

TEST(ExportGguf, CodesAndScalesOfABlockAreItsValues) {
  for (const GgufType type : kCodeTypes)
    for (uint64_t index = 0; index < 200; ++index) {
      SCOPED_TRACE(gguf_type_name(uint32_t(type)));
      const std::vector<std::byte> bytes = random_block(type, index);
      const CodeLayout layout = code_layout(type);
      int8_t codes[256];
      float scales[kMostGroups], minima[kMostGroups] = {};
      unpack_block(type, bytes.data(), codes, scales, minima);
      const auto value = [&](int64_t i) {
        const int64_t g = i / layout.group;
        const int zero = layout.minimum ? -(1 << (layout.bits - 1)) : 0;
        return float(codes[i] - zero) * scales[g] + minima[g];
      };
      std::vector<float> decoded(size_t(layout.elements));
      decode_blocks(type, bytes.data(), 1, decoded.data());
      for (int64_t i = 0; i < layout.elements; ++i) ASSERT_EQ(decoded[size_t(i)], value(i)) << i;
      // The unit of a super-block may come out another one, its values may not.
      std::vector<std::byte> again(bytes.size());
      ASSERT_TRUE(pack_block(type, codes, scales, minima, again.data()));
      if (layout.elements == 32) {
        EXPECT_EQ(again, bytes);
      }
      decode_blocks(type, again.data(), 1, decoded.data());
      for (int64_t i = 0; i < layout.elements; ++i) ASSERT_EQ(decoded[size_t(i)], value(i)) << i;
    }
}

TEST(ExportGguf, ScalesThatAreNoMultiplesHaveNoSuperBlock) {
  int8_t codes[256] = {};
  float scales[16], minima[8] = {};
  for (int j = 0; j < 16; ++j) scales[j] = 0.01f + 0.001f * float(j);
  std::byte bytes[210];
  EXPECT_FALSE(pack_block(GgufType::q4_k, codes, scales, minima, bytes));
  EXPECT_FALSE(pack_block(GgufType::q6_k, codes, scales, nullptr, bytes));
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(ExportGguf, SplitsALargeModelAsGgufSplitDoes) {
  const Folder folder;
  const ExportModel model = small_model(only(kQ8));
  const std::string first = export_gguf(
      folder.file("out"), model, {.name = "m", .tokenizer = nullptr, .max_file_bytes = 20'000});
  const std::vector<std::string> names = names_in(folder.file("out"));
  const int parts = int(names.size());
  ASSERT_GT(parts, 3);
  EXPECT_EQ(first, folder.file("out/") + names.front());
  EXPECT_EQ(names.front(), fmt::format("m-Q8_0-00001-of-{:05}.gguf", parts));
  EXPECT_EQ(names.back(), fmt::format("m-Q8_0-{0:05}-of-{0:05}.gguf", parts));
  const auto file = GgufFile::open(first);
  EXPECT_EQ(file->files().size(), size_t(parts));
  EXPECT_EQ(file->integer("split.count", 0), parts);
  EXPECT_EQ(file->integer("split.tensors.count", 0), int64_t(model.tensors.size()));
  EXPECT_TRUE(file->string("general.architecture"));
  const auto source = ModelSource::open(first);
  for (const ExportTensor& tensor : model.tensors) {
    if (!tensor.quantized()) continue;
    std::vector<float> expected(size_t(tensor.shape.count())), got(expected.size());
    model.floats(tensor, expected.data());
    source->read(tensor.name, got.data());
    EXPECT_EQ(got, expected) << tensor.name;
  }
  // The whole model as one file has the very same tensors.
  export_gguf(folder.file("one"), model, {.name = "m"});
  const auto whole = GgufFile::open(folder.file("one/m-Q8_0.gguf"));
  ASSERT_EQ(whole->tensors().size(), file->tensors().size());
  for (const GgufTensor& tensor : whole->tensors()) {
    const GgufTensor& part = *file->find(tensor.name);
    ASSERT_EQ(part.bytes, tensor.bytes);
    EXPECT_EQ(std::memcmp(file->data(part), whole->data(tensor), tensor.bytes), 0) << tensor.name;
  }
}

TEST(ExportGguf, RefusesPartsThatAreNotOfOneModel) {
  const Folder folder;
  const auto write = [&](const char* name, const QuantSpec& spec) {
    return export_gguf(folder.file(name), small_model(only(spec)),
                       {.name = "m", .tokenizer = nullptr, .max_file_bytes = 20'000});
  };
  const std::string first = write("a", kQ8), other = write("b", kQ8);
  const std::vector<std::string> names = names_in(folder.file("a"));
  const std::string second = folder.file("a/" + names[1]), kept = test::bytes_of(second);
  const auto said = [&](const std::string& path) { return refusal([&] { GgufFile::open(path); }); };
  expect_mentions(said(second), {"is part 2 of", "open the first", names[0].c_str()});
  folder.write("a/" + names[1], test::bytes_of(folder.file("b/" + names[2])));
  expect_mentions(said(first), {names[1].c_str(), "says it is part 3", "expected part 2"});
  folder.write("a/" + names[1], test::bytes_of(other));
  expect_mentions(said(first), {names[1].c_str(), "says it is part 1"});
  folder.write("a/" + names[1], kept.substr(0, kept.size() / 2));
  expect_mentions(said(first), {names[1].c_str(), "truncated"});
  std::filesystem::remove(second);
  expect_mentions(said(first), {names[1].c_str(), "No such file"});
  folder.write("a/" + names[1], kept);
  EXPECT_EQ(GgufFile::open(first)->files().size(), names.size());
  std::filesystem::copy(first, folder.file("renamed.gguf"));
  expect_mentions(said(folder.file("renamed.gguf")), {"part 1 of", "its name must end in"});
}

TEST(ExportGguf, KeepsTheTypeThatIsExact) {
  for (const auto& [value, type] : {std::pair{1.0f, GgufType::f16},
                                    {to_float(to_bfloat16(1e-30f)), GgufType::bf16},
                                    {0.1f, GgufType::f16},
                                    {1e6f + 3.0f, GgufType::bf16}}) {
    const Folder folder;
    ExportModel model = small_model(only(kQ8));
    model.floats = [inner = model.floats, value = value](const ExportTensor& tensor, float* out) {
      if (tensor.name != "model.embed_tokens.weight") return inner(tensor, out);
      std::fill_n(out, tensor.shape.count(), value);
    };
    const auto file = GgufFile::open(export_gguf(folder.file("out"), model, {.name = "m"}));
    EXPECT_EQ(GgufType(file->find("token_embd.weight")->type), type) << value;
  }
}

TEST(ExportGguf, EmbeddingsAndHeadInQ8_0) {
  const Folder folder;
  for (const bool tied : {false, true}) {
    ModelConfig config = small_config();
    config.tied_head = tied;
    ExportModel model = small_model(only(kQ4), config);
    for (ExportTensor& tensor : model.tensors)
      if (tensor.name == "model.embed_tokens.weight" || tensor.name == "lm_head.weight")
        tensor.quant = only(kQ8);
    const std::string path = export_gguf(folder.file("out"), model, {.name = "m"});
    const auto source = ModelSource::open(path);
    const QuantPlan plan = source->quantization();
    EXPECT_FALSE(plan.linears.at(kEmbeddingPath).activation);
    EXPECT_EQ(plan.linears.at(kEmbeddingPath).weight->bits, 8);
    EXPECT_EQ(plan.linears.at(kHeadPath).activation->group, 32);
    EXPECT_EQ(plan.linears.at(kHeadPath).weight.has_value(), !tied);
    EXPECT_EQ(difference(model.codes(model.tensors[0]), source->read_codes(model.tensors[0].name)),
              "");
  }
}

TEST(ExportGguf, KeepsWhatDoesNotVerifyUnderAnotherName) {
  const Folder folder;
  ExportModel model = small_model(only(kQ4));
  model.floats = [inner = model.floats](const ExportTensor& tensor, float* out) {
    inner(tensor, out);
    if (tensor.name == "model.layers.1.self_attn.k_proj.weight") out[70] += 0.25f;
  };
  try {
    export_gguf(folder.file("out"), model, {.name = "m"});
    FAIL() << "was verified";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::not_verified);
    expect_mentions(error.what(), "model.layers.1.self_attn.k_proj.weight: element 70");
  }
  EXPECT_FALSE(std::filesystem::exists(folder.file("out")));
  EXPECT_TRUE(std::filesystem::exists(folder.file("out.not-verified/m-Q4_0.gguf")));
}

TEST(ExportGguf, ReplacesAnEarlierExportAndNothingElse) {
  const Folder folder;
  export_gguf(folder.file("out"), small_model(only(kQ4)), {.name = "m"});
  export_gguf(folder.file("out"), small_model(only(kQ8)), {.name = "m"});
  EXPECT_FALSE(std::filesystem::exists(folder.file("out/m-Q4_0.gguf")));
  EXPECT_TRUE(std::filesystem::exists(folder.file("out/m-Q8_0.gguf")));
  folder.write("out/thesis.tex", "years of work");
  expect_mentions(
      refusal([&] { export_gguf(folder.file("out"), small_model(only(kQ8)), {.name = "m"}); }),
      "not an earlier export");
}

// Files of others: K-types meet activations in blocks of 256, and 16-bit weights none at all.
TEST(GgufPlan, IsWhatLlamaCppComputesWith) {
  ModelConfig config = small_config();
  config.hidden = config.ffn = 256, config.head_dim = 64, config.layers = 1, config.vocab = 8;
  config.tied_head = true;
  const std::map<std::string, GgufType> types = {
      {"self_attn.q_proj", GgufType::q4_k}, {"self_attn.v_proj", GgufType::q5_k},
      {"self_attn.o_proj", GgufType::q5_0}, {"mlp.up_proj", GgufType::f16},
      {"mlp.gate_proj", GgufType::bf16},    {"mlp.down_proj", GgufType::q8_0},
      {"embed_tokens", GgufType::q6_k}};
  std::vector<GgufEntry> entries;
  for (const SourceTensor& tensor : expected_tensors(config)) {
    GgufType type = GgufType::f32;
    for (const auto& [part, wanted] : types)
      if (tensor.name.find(part) != std::string::npos) type = wanted;
    entries.push_back({gguf_name(tensor.name), type, tensor.shape});
  }
  const Folder folder;
  write_gguf(folder.file("m.gguf"), model_keys(config, "m", GgufType::q8_0), entries,
             [](const GgufEntry& entry, const GgufSink& sink) {
               const std::string zeros(entry.bytes(), '\0');
               sink(zeros.data(), zeros.size());
             });
  const auto source = ModelSource::open(folder.file("m.gguf"));
  const QuantPlan plan = source->quantization();
  const QuantSpec of_256{
      8, Per::group, 256, Range::strict, ScaleRule::amax, ScaleType::f32, Division::exact};
  QuantSpec of_32 = of_256;
  of_32.group = 32;
  of_32.scale_type = ScaleType::f16;
  const std::string layer = "model.layers.0.";
  for (const char* name : {"self_attn.q_proj", "self_attn.v_proj"}) {
    EXPECT_EQ(plan.linears.at(layer + name).activation, of_256) << name;
  }
  EXPECT_EQ(plan.linears.at(layer + "self_attn.q_proj").weight, q4_k_grid());
  EXPECT_FALSE(plan.linears.at(layer + "self_attn.v_proj").weight) << "Q5_K is read as numbers";
  EXPECT_EQ(plan.linears.at(kHeadPath).activation, of_256);
  EXPECT_EQ(plan.linears.at(layer + "self_attn.o_proj").activation, of_32);
  EXPECT_EQ(plan.linears.at(layer + "self_attn.o_proj").weight->bits, 5);
  EXPECT_EQ(plan.linears.at(layer + "mlp.down_proj").activation, of_32);
  EXPECT_TRUE(plan.linears.at(layer + "mlp.down_proj").weight);
  for (const char* name : {"self_attn.k_proj", "mlp.up_proj", "mlp.gate_proj"})
    EXPECT_FALSE(plan.linears.contains(layer + name)) << name;
  EXPECT_EQ(plan.linears.at(kEmbeddingPath).weight, q6_k_grid());
  EXPECT_FALSE(plan.linears.at(kEmbeddingPath).activation) << "rows are looked up";
}

TEST(ExportGguf, RefusesWhatTheFormatCannotSay) {
  const auto refused = [](const ModelConfig& config, const QuantSpec& weight) {
    QuantPlan plan;
    plan.linears["model.layers.0.mlp.down_proj"] = only(weight);
    return refusal([&] { check_gguf_export(config, plan, nullptr); });
  };
  const ModelConfig config = small_config();
  expect_mentions(refused(config, grid(4, Per::group, Range::asymmetric)), "minimum");
  expect_mentions(refused(config, grid(5, Per::group, Range::minimum)), "5 bits");
  QuantSpec f32 = kQ4;
  f32.scale_type = ScaleType::f32;
  expect_mentions(refused(config, f32), "scale_type");
  ModelConfig narrow = config;
  narrow.ffn = 86;
  expect_mentions(refused(narrow, grid(8, Per::row, Range::strict)),
                  "down_proj.weight: rows of 86");
  ModelConfig biased = family("qwen3");
  biased.qkv_bias = true;
  expect_mentions(refused(biased, kQ4), "qwen3");
  check_gguf_export(config, {}, nullptr);
}

}  // namespace
}  // namespace qat
