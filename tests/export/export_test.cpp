#include <gtest/gtest.h>

#include <atomic>

#include "engine/io/json.h"
#include "models/code_packing.h"
#include "models/export/compressed_tensors.h"
#include "models/export/huggingface.h"
#include "models/source.h"
#include "models/stored_codes.h"
#include "tests/export/small_model.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::bytes_of;
using test::expect_mentions;
using test::Folder;
using test::random_matrix;
using test::refusal;
using test::small_config;
using test::small_model;

const QuantSpec kInt8 = {.bits = 8, .per = Per::row};
const QuantSpec kInt4 = {
    .bits = 4, .per = Per::group, .group = 32, .range = Range::full, .rule = ScaleRule::no_clip};
const QuantSpec kInt4Asymmetric = {.bits = 4,
                                   .per = Per::group,
                                   .group = 32,
                                   .range = Range::asymmetric,
                                   .rule = ScaleRule::min_max};

// Weights quantized, activations not.
LinearQuant only(const QuantSpec& weight) {
  return {.weight = weight, .activation = {}};
}

// Every tensor of the directory, read as a model, against what the exporter was given.
void expect_same_values(const std::string& directory, const ExportModel& model) {
  const auto source = ModelSource::open(directory);
  ASSERT_EQ(source->tensors().size(), model.tensors.size());
  for (const ExportTensor& tensor : model.tensors) {
    std::vector<float> expected(size_t(tensor.shape.count())), got(expected.size());
    model.floats(tensor, expected.data());
    source->read(tensor.name, got.data());
    EXPECT_EQ(std::memcmp(expected.data(), got.data(), got.size() * 4), 0) << tensor.name;
  }
}

TEST(CodePacking, FollowsTheWordLayout) {
  // Element 8c in bits 0-3; unsigned = code + 8.
  const int8_t codes[9] = {-8, -7, 0, 7, 1, 2, 3, -1, 5};
  int32_t words[2];
  pack_rows(codes, 1, 9, 4, words);
  EXPECT_EQ(uint32_t(words[0]), 0x7BA9F810u);
  EXPECT_EQ(uint32_t(words[1]), 0x0000000Du);
  int8_t back[9];
  unpack_rows(words, 1, 9, 4, back);
  EXPECT_EQ(std::memcmp(codes, back, 9), 0);
  const int8_t column[4] = {-128, 127, 0, -1};
  int32_t word;
  pack_columns(column, 4, 1, 8, &word);
  EXPECT_EQ(uint32_t(word), 0x7F80FF00u);
  for (int bits : {2, 4, 8}) {
    const QuantizedMatrix m =
        random_matrix("m", {11, 13}, {.bits = bits, .per = Per::row, .range = Range::full});
    std::vector<int32_t> packed(size_t(11 * packed_words(13, bits)));
    std::vector<int8_t> unpacked(m.codes.size());
    pack_rows(m.codes.data(), 11, 13, bits, packed.data());
    unpack_rows(packed.data(), 11, 13, bits, unpacked.data());
    EXPECT_EQ(unpacked, m.codes);
    packed.resize(size_t(packed_words(11, bits) * 13));
    pack_columns(m.codes.data(), 11, 13, bits, packed.data());
    unpack_columns(packed.data(), 11, 13, bits, unpacked.data());
    EXPECT_EQ(unpacked, m.codes);
  }
}

TEST(ExportHuggingFace, RoundTrips) {
  const Folder folder;
  ExportModel model = small_model({});
  Json config = Json::parse(model.config_json);
  config["transformers_version"] = "kept";
  config["quantization_config"] = {{"quant_method", "compressed-tensors"}};
  model.config_json = config.dump();
  const std::string out = folder.file("hf");
  export_huggingface(out, model, {.source_directory = "", .texts = {{"tokenizer.json", "{}"}}});
  expect_same_values(out, model);
  const Json written = read_json_file(out + "/config.json");
  EXPECT_EQ(written["transformers_version"], "kept");
  EXPECT_EQ(written["torch_dtype"], "float32");
  EXPECT_FALSE(written.contains("quantization_config"));
  EXPECT_EQ(bytes_of(out + "/tokenizer.json"), "{}");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(ExportHuggingFace, WritesQuantizedWeightsOnTheirGrid) {
  const Folder folder;
  const ExportModel model = small_model({.weight = kInt4, .activation = kInt8});
  export_huggingface(folder.file("hf"), model, {});
  expect_same_values(folder.file("hf"), model);
}

QuantSpec e4m3(Per per, ScaleType scale = ScaleType::f32) {
  QuantSpec spec = {.bits = 8, .per = per, .scale_type = scale};
  spec.form = Form::e4m3;
  return spec;
}

TEST(ExportCompressedTensors, Float8) {
  for (const Per per : {Per::row, Per::tensor}) {
    const Folder folder;
    const ExportModel model =
        small_model({.weight = e4m3(per, ScaleType::bf16), .activation = e4m3(Per::row)});
    const std::string out = folder.file("ct");
    export_compressed_tensors(out, model, {}, {.scale_type = StoredType::bf16});
    expect_same_values(out, model);
    const Json config = read_json_file(out + "/config.json")["quantization_config"];
    EXPECT_EQ(config["format"], "float-quantized");
    const Json group = config["config_groups"]["group_0"];
    EXPECT_EQ(group["format"], "float-quantized");
    EXPECT_EQ(group["weights"], (Json{{"num_bits", 8},
                                      {"type", "float"},
                                      {"symmetric", true},
                                      {"strategy", per == Per::row ? "channel" : "tensor"},
                                      {"dynamic", false}}));
    EXPECT_EQ(group["input_activations"], (Json{{"num_bits", 8},
                                                {"type", "float"},
                                                {"symmetric", true},
                                                {"strategy", "token"},
                                                {"dynamic", true}}));
    const auto file = Safetensors::open_directory(out);
    const std::string module = "model.layers.0.mlp.up_proj";
    EXPECT_EQ(file->find(module + ".weight")->type, StoredType::f8_e4m3);
    EXPECT_EQ(file->find(module + ".weight_scale")->type, StoredType::bf16);
    const QuantPlan plan = ModelSource::open(out)->quantization();
    const LinearQuant& quant = plan.linears.at(module);
    EXPECT_EQ(quant.weight->form, Form::e4m3);
    EXPECT_EQ(*quant.activation, e4m3(Per::row));
  }
}

// One byte of a weight that is no number, and arguments that float8 does not have.
TEST(ExportCompressedTensors, RefusesDamagedFloat8) {
  const Folder folder;
  const ExportModel model = small_model({.weight = e4m3(Per::row), .activation = e4m3(Per::row)});
  const std::string out = folder.file("ct"), weights = out + "/model.safetensors";
  export_compressed_tensors(out, model, {});
  const std::string module = "model.layers.0.mlp.up_proj";
  std::string bytes = bytes_of(weights);
  bytes[Safetensors::open_file(weights)->find(module + ".weight")->offset + 5] = char(0xFF);
  folder.write("ct/model.safetensors", bytes);
  expect_mentions(refusal([&] { ModelSource::open(out)->read_codes(module + ".weight"); }),
                  {module, "code 255 at element 5 is not a number"});
  Json config = read_json_file(out + "/config.json");
  for (const auto& [key, value] : std::vector<std::pair<const char*, Json>>{
           {"num_bits", 4}, {"symmetric", false}, {"type", "fp"}}) {
    Json changed = config;
    changed["quantization_config"]["config_groups"]["group_0"]["weights"][key] = value;
    folder.write("ct/config.json", changed.dump());
    expect_mentions(refusal([&] { ModelSource::open(out); }),
                    {"config.json", "config_groups.group_0.weights", key});
  }
}

TEST(ExportCompressedTensors, HasNoSuperBlocks) {
  const Folder folder;
  ModelConfig config = small_config();
  config.hidden = config.ffn = 256, config.head_dim = 64;
  const ExportModel model = small_model({.weight = q4_k_grid(), .activation = {}}, config);
  expect_mentions(refusal([&] { export_compressed_tensors(folder.file("ct"), model, {}); }),
                  {"super-blocks", "GGUF"});
}

TEST(ExportHuggingFace, ShardsAndBf16) {
  const Folder folder;
  const ExportModel model = small_model({});
  export_huggingface(folder.file("hf"), model, {},
                     {.type = StoredType::bf16, .max_shard_bytes = 30'000});
  EXPECT_TRUE(std::filesystem::exists(folder.file("hf/model.safetensors.index.json")));
  EXPECT_FALSE(std::filesystem::exists(folder.file("hf/model.safetensors")));
  const auto source = ModelSource::open(folder.file("hf"));
  EXPECT_EQ(source->config().dtype, "bfloat16");
  const ExportTensor& tensor = model.tensors[3];
  std::vector<float> expected(size_t(tensor.shape.count())), got(expected.size());
  model.floats(tensor, expected.data());
  source->read(tensor.name, got.data());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], to_float(to_bfloat16(expected[i])));
}

TEST(ExportHuggingFace, CopiesTheFilesBesideTheWeights) {
  const Folder folder;
  std::filesystem::create_directory(folder.file("source"));
  folder.write("source/tokenizer.json", "T");
  folder.write("source/tokenizer.model", std::string("a\0b", 3));
  folder.write("source/chat_template.jinja", "C");
  folder.write("source/model.safetensors.index.json", "old");
  folder.write("source/pytorch_model.bin", "old");
  export_huggingface(
      folder.file("out"), small_model({}),
      {.source_directory = folder.file("source"), .texts = {{"tokenizer.json", "replaced"}}});
  EXPECT_EQ(bytes_of(folder.file("out/tokenizer.json")), "replaced");
  EXPECT_EQ(bytes_of(folder.file("out/tokenizer.model")), std::string("a\0b", 3));
  EXPECT_EQ(bytes_of(folder.file("out/chat_template.jinja")), "C");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.file("out")), {}), 5);
  expect_mentions(refusal([&] {
                    export_huggingface(folder.file("source"), small_model({}),
                                       {.source_directory = folder.file("source"), .texts = {}});
                  }),
                  "replace the model");
}

TEST(ExportHuggingFace, ReplacesAnEarlierExportAndNothingElse) {
  const Folder folder;
  const std::string out = folder.file("out");
  export_huggingface(out, small_model({}), {});
  folder.write("out/stale.txt", "x");
  export_huggingface(out + "/", small_model({}), {});
  EXPECT_FALSE(std::filesystem::exists(out + "/stale.txt"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  std::filesystem::create_directory(folder.file("home"));
  folder.write("home/thesis.tex", "years of work");
  expect_mentions(refusal([&] { export_huggingface(folder.file("home"), small_model({}), {}); }),
                  "not an earlier export");
  EXPECT_EQ(bytes_of(folder.file("home/thesis.tex")), "years of work");
  Exit code = Exit::ok;
  try {
    export_huggingface(folder.file("none/out"), small_model({}), {});
  } catch (const Error& error) {
    code = error.code();
  }
  EXPECT_EQ(code, Exit::cannot_write);
}

TEST(ExportHuggingFace, RefusesTensorsThatDoNotFit) {
  const Folder folder;
  ExportModel model = small_model({});
  model.tensors.pop_back();
  expect_mentions(refusal([&] { export_huggingface(folder.file("x"), model, {}); }), "missing");
  model = small_model({});
  model.tensors[2].shape = {1, 2};
  expect_mentions(refusal([&] { export_huggingface(folder.file("x"), model, {}); }), "shape");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(ExportHuggingFace, KeepsWhatDoesNotVerifyUnderAnotherName) {
  const Folder folder;
  ExportModel model = small_model({});
  // Another value at the second reading: what a race or a broken disk would do.
  auto calls = std::make_shared<int>(0);
  model.floats = [inner = model.floats, calls](const ExportTensor& tensor, float* out) {
    inner(tensor, out);
    if (tensor.name == "model.norm.weight" && ++*calls == 2) out[5] += 1.0f;
  };
  try {
    export_huggingface(folder.file("out"), model, {});
    FAIL() << "was verified";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::not_verified);
    expect_mentions(error.what(), "model.norm.weight");
    expect_mentions(error.what(), "out.not-verified");
  }
  EXPECT_FALSE(std::filesystem::exists(folder.file("out")));
  EXPECT_TRUE(std::filesystem::exists(folder.file("out.not-verified/model.safetensors")));
}

struct Scheme {
  const char* name;
  LinearQuant quant;
  CompressedTensorsOptions options;
  const char* format;
  std::vector<std::string> parts;
};

TEST(ExportCompressedTensors, WritesTheCodesOfEveryScheme) {
  const QuantSpec token = {.bits = 8, .per = Per::row};
  const std::vector<Scheme> schemes = {
      {"W8A8",
       {.weight = kInt8, .activation = token},
       {},
       "int-quantized",
       {"weight", "weight_scale"}},
      {"W4A8 bytes",
       {.weight = kInt4, .activation = token},
       {},
       "int-quantized",
       {"weight", "weight_scale"}},
      {"W4A8 packed",
       {.weight = kInt4, .activation = token},
       {.layout = CodeLayout::packed, .scale_type = StoredType::bf16},
       "pack-quantized",
       {"weight_packed", "weight_scale", "weight_shape"}},
      {"W4A16",
       only(kInt4),
       {},
       "pack-quantized",
       {"weight_packed", "weight_scale", "weight_shape"}},
      {"W4A16 asymmetric",
       only(kInt4Asymmetric),
       {.scale_type = StoredType::bf16},
       "pack-quantized",
       {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}},
      {"W8A16",
       only(kInt8),
       {},
       "pack-quantized",
       {"weight_packed", "weight_scale", "weight_shape"}},
      {"W3A8",
       {.weight = QuantSpec{.bits = 3, .per = Per::row}, .activation = token},
       {},
       "int-quantized",
       {"weight", "weight_scale"}},
      {"W8A8 per tensor",
       {.weight = QuantSpec{.bits = 8, .per = Per::tensor}, .activation = token},
       {},
       "int-quantized",
       {"weight", "weight_scale"}},
  };
  for (const Scheme& scheme : schemes) {
    SCOPED_TRACE(scheme.name);
    const Folder folder;
    const std::string out = folder.file("ct");
    const ExportModel model = small_model(scheme.quant);
    export_compressed_tensors(out, model, {}, scheme.options);
    expect_same_values(out, model);
    const auto stored = Safetensors::open_directory(out);
    const std::string module = "model.layers.1.mlp.down_proj.";
    std::vector<std::string> parts;
    for (const SafetensorsTensor& tensor : stored->tensors())
      if (tensor.name.starts_with(module)) parts.push_back(tensor.name.substr(module.size()));
    EXPECT_EQ(parts, scheme.parts);
    const auto codes = open_stored_codes(out);
    for (const ExportTensor& tensor : model.tensors) {
      EXPECT_EQ(codes->is_quantized(tensor.name), tensor.quantized()) << tensor.name;
      if (tensor.quantized()) {
        EXPECT_EQ(difference(model.codes(tensor), codes->read(tensor.name)), "");
      }
    }
    const Json config = read_json_file(out + "/config.json")["quantization_config"];
    EXPECT_EQ(config["format"], scheme.format);
    EXPECT_EQ(config["ignore"], Json({"lm_head"}));
    const Json& group = config["config_groups"]["group_0"];
    EXPECT_EQ(group["targets"], Json({"Linear"}));
    EXPECT_EQ(group["weights"]["num_bits"], scheme.quant.weight->bits);
    EXPECT_EQ(group["input_activations"].is_null(), !scheme.quant.activation);
    if (scheme.quant.activation) {
      EXPECT_EQ(group["input_activations"]["strategy"], "token");
      EXPECT_EQ(group["input_activations"]["dynamic"], true);
    }
  }
}

TEST(ExportCompressedTensors, StaticActivations) {
  const Folder folder;
  const QuantSpec activation = {.bits = 8, .per = Per::tensor, .range = Range::asymmetric};
  ExportModel model =
      small_model({.weight = kInt8, .activation = activation, .static_activation = true});
  for (ExportTensor& tensor : model.tensors) {
    if (!tensor.quantized()) continue;
    tensor.input_scale = 0.0125f;
    tensor.input_zero = -7.0f;
  }
  export_compressed_tensors(folder.file("ct"), model, {});
  const auto stored = Safetensors::open_directory(folder.file("ct"));
  float scale;
  std::memcpy(&scale, stored->data(*stored->find("model.layers.0.mlp.up_proj.input_scale")), 4);
  EXPECT_EQ(scale, 0.0125f);
  EXPECT_EQ(int8_t(*stored->data(*stored->find("model.layers.0.mlp.up_proj.input_zero_point"))),
            -7);
  const Json group = read_json_file(folder.file(
      "ct/config.json"))["quantization_config"]["config_groups"]["group_0"]["input_activations"];
  EXPECT_EQ(group, Json::parse(R"({"num_bits": 8, "type": "int", "symmetric": false,
                                   "strategy": "tensor", "dynamic": false})"));
}

TEST(ExportCompressedTensors, LayersOfDifferentWidth) {
  const Folder folder;
  ExportModel model = small_model(only(kInt4));
  for (ExportTensor& tensor : model.tensors) {
    if (tensor.name.starts_with("model.layers.0.mlp.") && tensor.quantized())
      tensor.quant = {.weight = kInt8, .activation = kInt8};
    if (tensor.name == "model.layers.1.self_attn.o_proj.weight") tensor.quant = {};
  }
  export_compressed_tensors(folder.file("ct"), model, {});
  expect_same_values(folder.file("ct"), model);
  const Json config = read_json_file(folder.file("ct/config.json"))["quantization_config"];
  EXPECT_EQ(config["format"], "mixed-precision");
  EXPECT_EQ(config["config_groups"].size(), 2u);
  EXPECT_EQ(config["ignore"], Json({"model.layers.1.self_attn.o_proj", "lm_head"}));
}

TEST(ExportCompressedTensors, RefusesWhatTheFormatCannotSay) {
  const Folder folder;
  const auto refused = [&](const ExportModel& model, const CompressedTensorsOptions& options = {}) {
    return refusal([&] { export_compressed_tensors(folder.file("ct"), model, {}, options); });
  };
  expect_mentions(refused(small_model({})), "nothing is quantized");
  expect_mentions(refused(small_model(only(QuantSpec{.bits = 3, .per = Per::row}))), "3 bits");
  expect_mentions(refused(small_model({.weight = kInt8, .activation = kInt4})), "activations");
  ExportModel fine = small_model(only(kInt8));
  fine.codes = [inner = fine.codes](const ExportTensor& tensor) {
    QuantizedMatrix m = inner(tensor);
    m.scales[3] = 0.1f;
    return m;
  };
  expect_mentions(refused(fine, {.scale_type = StoredType::bf16}), "not exact in BF16");
  fine.codes = [](const ExportTensor& tensor) {
    QuantizedMatrix m = random_matrix(tensor.name, tensor.shape, *tensor.quant.weight);
    m.scales[0] = -m.scales[0];
    return m;
  };
  expect_mentions(refused(fine), "scale -");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(CompressedWeights, RefusesDamage) {
  const Folder folder;
  export_compressed_tensors(folder.file("ct"), small_model(only(kInt4)), {});
  const std::string file = folder.file("ct/config.json");
  const Json good = read_json_file(file);
  const auto refused = [&](const char* pointer, const Json& value) {
    Json bad = good;
    bad[Json::json_pointer(std::string("/quantization_config") + pointer)] = value;
    folder.write("ct/config.json", bad.dump());
    return refusal([&] { ModelSource::open(folder.file("ct")); });
  };
  expect_mentions(refused("/quant_method", "fp8"), "compressed-tensors");
  expect_mentions(refused("/config_groups", {}), "config_groups");
  expect_mentions(refused("/ignore", {"model.layers.0.mlp.up_proj"}), "does not target");
  expect_mentions(refused("/config_groups/group_0/targets", {"re:.*"}), "regular expression");
  expect_mentions(refused("/config_groups/group_0/targets", {"model.layers.0.mlp.up_proj"}),
                  "does not target");
  expect_mentions(refused("/config_groups/group_0/weights/type", "float"), "type");
  expect_mentions(refused("/config_groups/group_0/weights/num_bits", 8), "weight_packed");
  expect_mentions(refused("/config_groups/group_0/weights/num_bits", 99), "num_bits");
  expect_mentions(refused("/config_groups/group_0/weights/group_size", 16), "weight_scale");
  expect_mentions(refused("/config_groups/group_0/weights/group_size", 0), "group_size");
  expect_mentions(refused("/config_groups/group_0/weights/actorder", "group"), "actorder");
  expect_mentions(refused("/kv_cache_scheme", {{"num_bits", 8}}), "kv_cache_scheme");
}

TEST(ExportCompressedTensors, ARealModelReadsBackTheSame) {
  const char* data = std::getenv("QAT_TEST_DATA");
  if (!data) GTEST_SKIP() << "QAT_TEST_DATA is not set";
  const Folder folder;
  const std::string from = std::string(data) + "/stories260k";
  const auto source = ModelSource::open(from);
  ExportModel model;
  model.config_json = source->config_json();
  model.tensors = export_tensors(source->config());
  model.floats = [&](const ExportTensor& tensor, float* out) { source->read(tensor.name, out); };
  const ExportFiles files = {.source_directory = from, .texts = {}};
  export_huggingface(folder.file("hf"), model, files);
  expect_same_values(folder.file("hf"), model);
  EXPECT_EQ(bytes_of(folder.file("hf/tokenizer.model")), bytes_of(from + "/tokenizer.model"));
}

}  // namespace
}  // namespace qat
