// GPTQ and AWQ: the bytes against a second reading of the layouts, codes there and back, damage.
#include "models/export/packed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "engine/io/json.h"
#include "models/code_packing.h"
#include "models/source.h"
#include "models/stored_codes.h"
#include "tests/export/small_model.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::Folder;
using test::refusal;
using test::small_model;

QuantSpec spec_of(int bits, Range range, int group) {
  return {.bits = bits,
          .per = group ? Per::group : Per::row,
          .group = group,
          .range = range,
          .rule = range == Range::asymmetric ? ScaleRule::min_max : ScaleRule::no_clip,
          .scale_type = ScaleType::f16};
}

LinearQuant only(const QuantSpec& weight) {
  return {.weight = weight, .activation = {}};
}

// Scales that F16 holds exactly.
ExportModel packed_model(const QuantSpec& spec) {
  ExportModel model = small_model(only(spec));
  model.codes = [](const ExportTensor& tensor) {
    QuantizedMatrix m = test::random_matrix(tensor.name, tensor.shape, *tensor.quant.weight);
    for (size_t i = 0; i < m.scales.size(); ++i) m.scales[i] = float(i % 50 + 1) / 1024.0f;
    return m;
  };
  model.floats = [codes = model.codes](const ExportTensor& tensor, float* out) {
    if (tensor.quantized()) return dequantize(codes(tensor), out);
    const auto values = test::random_values(tensor.name, tensor.shape.count());
    for (size_t i = 0; i < values.size(); ++i) out[i] = to_float(to_float16(values[i]));
  };
  return model;
}

const char* const kModule = "model.layers.1.mlp.down_proj";  // [64, 96]

struct Stored {
  std::shared_ptr<const Safetensors> file;
  std::vector<uint32_t> words(const std::string& part) const {
    const SafetensorsTensor& tensor = *file->find(kModule + ("." + part));
    std::vector<uint32_t> out(size_t(tensor.shape.count()));
    std::memcpy(out.data(), file->data(tensor), out.size() * 4);
    return out;
  }
};

TEST(ExportGptq, FollowsTheLayout) {
  for (const int bits : {2, 4, 8})
    for (const Range range : {Range::full, Range::asymmetric}) {
      SCOPED_TRACE(fmt::format("{} bits, {}", bits, int(range)));
      const Folder folder;
      const ExportModel model = packed_model(spec_of(bits, range, 32));
      export_gptq(folder.file("q"), model, {});
      const Stored stored{Safetensors::open_directory(folder.file("q"))};
      const ExportTensor tensor{
          kModule + std::string(".weight"), {64, 96}, only(spec_of(bits, range, 32))};
      const QuantizedMatrix m = model.codes(tensor);
      const int p = 32 / bits, half = 1 << (bits - 1);
      const uint32_t mask = (1u << bits) - 1;
      const auto qweight = stored.words("qweight"), qzeros = stored.words("qzeros"),
                 g_idx = stored.words("g_idx");
      ASSERT_EQ(qweight.size(), size_t(96 / p * 64));
      for (int n = 0; n < 64; ++n)
        for (int k = 0; k < 96; ++k) {
          const uint32_t field = qweight[size_t(k / p * 64 + n)] >> (k % p * bits) & mask;
          ASSERT_EQ(int(field) - half, m.codes[size_t(n * 96 + k)]) << n << " " << k;
        }
      for (int g = 0; g < 3; ++g)
        for (int n = 0; n < 64; ++n) {
          const uint32_t field = qzeros[size_t(g * 64 / p + n / p)] >> (n % p * bits) & mask;
          // v1 keeps one less, v2 the zero point itself.
          const int zero = range == Range::full ? half - 1 : int(m.zeros[size_t(n * 3 + g)]) + half;
          ASSERT_EQ(int(field), zero);
        }
      for (int k = 0; k < 96; ++k) ASSERT_EQ(g_idx[size_t(k)], uint32_t(k / 32));
      const Json config = read_json_file(folder.file("q/quantize_config.json"));
      EXPECT_EQ(config, read_json_file(folder.file("q/config.json"))["quantization_config"]);
      EXPECT_EQ(config["checkpoint_format"], range == Range::full ? "gptq" : "gptq_v2");
      EXPECT_EQ(config["sym"], range == Range::full);
      if (bits == 4 && range == Range::full) {
        EXPECT_EQ(qzeros[0], 0x77777777u);
      }
    }
}

TEST(ExportAwq, FollowsTheLayout) {
  const Folder folder;
  const ExportModel model = packed_model(spec_of(4, Range::asymmetric, 32));
  export_awq(folder.file("q"), model, {});
  const Stored stored{Safetensors::open_directory(folder.file("q"))};
  const ExportTensor tensor{
      kModule + std::string(".weight"), {64, 96}, only(spec_of(4, Range::asymmetric, 32))};
  const QuantizedMatrix m = model.codes(tensor);
  const auto qweight = stored.words("qweight"), qzeros = stored.words("qzeros");
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int k = 0; k < 96; ++k)
    for (int c = 0; c < 8; ++c)
      for (int p = 0; p < 8; ++p) {
        const int n = 8 * c + order[p];
        ASSERT_EQ(int(qweight[size_t(k * 8 + c)] >> (4 * p) & 15) - 8, m.codes[size_t(n * 96 + k)]);
        if (k < 3) {
          ASSERT_EQ(int(qzeros[size_t(k * 8 + c)] >> (4 * p) & 15) - 8,
                    int(m.zeros[size_t(n * 3 + k)]));
        }
      }
}

TEST(ExportPacked, CodesComeBackTheSame) {
  struct Case {
    int bits;
    Range range;
    int group;
    bool awq;
  };
  for (const Case& c : {Case{4, Range::full, 32, false},
                        {4, Range::asymmetric, 32, false},
                        {8, Range::full, 0, false},
                        {8, Range::strict, 0, false},
                        {2, Range::full, 16, false},
                        {4, Range::full, 32, true},
                        {4, Range::asymmetric, 0, true}}) {
    SCOPED_TRACE(fmt::format("{} bits group {} awq {}", c.bits, c.group, c.awq));
    const Folder folder;
    const ExportModel model = packed_model(spec_of(c.bits, c.range, c.group));
    (c.awq ? export_awq : export_gptq)(folder.file("q"), model, {}, {});
    const auto source = ModelSource::open(folder.file("q"));
    const QuantPlan plan = source->quantization();
    EXPECT_EQ(plan.linears.size(), 14u);
    for (const ExportTensor& tensor : model.tensors) {
      std::vector<float> expected(size_t(tensor.shape.count())), got(expected.size());
      model.floats(tensor, expected.data());
      source->read(tensor.name, got.data());
      EXPECT_EQ(std::memcmp(expected.data(), got.data(), got.size() * 4), 0) << tensor.name;
      if (!tensor.quantized()) continue;
      EXPECT_EQ(difference(model.codes(tensor), source->read_codes(tensor.name)), "");
    }
  }
}

TEST(ExportPacked, RefusesWhatTheFormatCannotSay) {
  const Folder folder;
  const auto refused = [&](const ExportModel& model, bool awq = false) {
    return refusal([&] { (awq ? export_awq : export_gptq)(folder.file("q"), model, {}, {}); });
  };
  expect_mentions(refused(small_model({})), "nothing is quantized");
  expect_mentions(refused(packed_model(spec_of(3, Range::full, 32))), "2, 4 and 8 bits");
  expect_mentions(refused(packed_model(spec_of(8, Range::full, 32)), true), "4 bits only");
  expect_mentions(refused(packed_model({.bits = 8, .per = Per::tensor})), "whole matrix");
  ExportModel mixed = packed_model(spec_of(4, Range::full, 32));
  mixed.tensors.back().quant = {};
  for (ExportTensor& tensor : mixed.tensors)
    if (tensor.name.ends_with("q_proj.weight")) tensor.quant = only(spec_of(8, Range::full, 32));
  expect_mentions(refused(mixed), "different grids");
  ExportModel inexact = packed_model(spec_of(4, Range::full, 32));
  inexact.codes = [inner = inexact.codes](const ExportTensor& tensor) {
    QuantizedMatrix m = inner(tensor);
    m.scales[5] = 0.1f;
    return m;
  };
  expect_mentions(refused(inexact), "not exact in F16");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Linears that stay as they are have to be named, or a reader looks for their codes.
TEST(ExportPacked, NamesTheLinearsItLeavesAlone) {
  const Folder folder;
  ExportModel model = packed_model(spec_of(4, Range::full, 32));
  for (ExportTensor& tensor : model.tensors)
    if (tensor.name == "model.layers.0.mlp.up_proj.weight") tensor.quant = {};
  export_gptq(folder.file("g"), model, {});
  export_awq(folder.file("a"), model, {});
  const Json gptq = read_json_file(folder.file("g/quantize_config.json"));
  EXPECT_TRUE(gptq["dynamic"].contains("-:^model\\.layers\\.0\\.mlp\\.up_proj$"));
  const Json awq = read_json_file(folder.file("a/config.json"))["quantization_config"];
  EXPECT_EQ(awq["modules_to_not_convert"], Json({"model.layers.0.mlp.up_proj"}));
  EXPECT_EQ(ModelSource::open(folder.file("g"))->quantization().linears.size(), 13u);
  EXPECT_EQ(ModelSource::open(folder.file("a"))->quantization().linears.size(), 13u);
}

// A second writer for the reader's tests: any tensors at all.
void rewrite(const std::string& directory, const std::string& part,
             const std::function<void(SafetensorsEntry&, std::string& bytes)>& change) {
  const auto file = Safetensors::open_directory(directory);
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> bytes;
  for (const SafetensorsTensor& tensor : file->tensors()) {
    SafetensorsEntry entry{tensor.name, tensor.type, tensor.shape};
    std::string data(reinterpret_cast<const char*>(file->data(tensor)), tensor.bytes);
    if (tensor.name == kModule + ("." + part)) change(entry, data);
    if (entry.name.empty()) continue;
    bytes[entry.name] = data;
    entries.push_back(entry);
  }
  write_safetensors(directory + "/model.safetensors", entries,
                    [&](const SafetensorsEntry& entry, const ByteSink& sink) {
                      sink(bytes[entry.name].data(), bytes[entry.name].size());
                    });
}

// As desc_act leaves them: the list says which group a column is in.
TEST(PackedWeights, ReadsScatteredGroups) {
  const Folder folder;
  const ExportModel model = packed_model(spec_of(4, Range::full, 32));
  export_gptq(folder.file("q"), model, {});
  rewrite(folder.file("q"), "g_idx", [](SafetensorsEntry&, std::string& bytes) {
    for (int k = 0; k < 96; ++k) {
      const int32_t group = k % 3;
      std::memcpy(bytes.data() + 4 * k, &group, 4);
    }
  });
  const auto source = ModelSource::open(folder.file("q"));
  EXPECT_TRUE(source->quantization().linears.contains(kModule));
  const std::string name = kModule + std::string(".weight");
  const QuantizedMatrix m = model.codes({name, {64, 96}, only(spec_of(4, Range::full, 32))});
  std::vector<float> values(64 * 96);
  source->read(name, values.data());
  for (int n = 0; n < 64; ++n)
    for (int k = 0; k < 96; ++k)
      ASSERT_EQ(values[size_t(n * 96 + k)],
                float(m.codes[size_t(n * 96 + k)]) * m.scales[size_t(n * 3 + k % 3)]);
  const QuantizedMatrix read = source->read_codes(name);
  EXPECT_EQ(read.codes, m.codes);
  for (int k = 0; k < 96; ++k) ASSERT_EQ(read.group_of[size_t(k)], k % 3);
}

TEST(ExportGptq, WritesTheGroupsOfColumns) {
  const Folder folder;
  const QuantSpec spec = spec_of(4, Range::asymmetric, 32);
  ExportModel model = packed_model(spec);
  for (ExportTensor& tensor : model.tensors)
    if (tensor.quantized()) tensor.quant.listed_groups = true;
  model.codes = [codes = model.codes](const ExportTensor& tensor) {
    QuantizedMatrix m = codes(tensor);
    const int64_t columns = m.shape[1], groups = columns / 32;
    for (int64_t k = 0; k < columns; ++k) m.group_of.push_back(int32_t((k * 5) % columns % groups));
    return m;
  };
  export_gptq(folder.file("q"), model, {});
  EXPECT_EQ(read_json_file(folder.file("q/quantize_config.json"))["desc_act"], true);
  const auto source = ModelSource::open(folder.file("q"));
  const std::string name = kModule + std::string(".weight");
  LinearQuant listed = only(spec);
  listed.listed_groups = true;
  const QuantizedMatrix expected = model.codes({name, {64, 96}, listed});
  EXPECT_EQ(difference(source->read_codes(name), expected), "");
  std::vector<float> values(64 * 96), by_hand(64 * 96);
  source->read(name, values.data());
  dequantize(expected, by_hand.data());
  EXPECT_EQ(values, by_hand);
}

TEST(PackedWeights, RefusesDamage) {
  const Folder folder;
  const std::string directory = folder.file("q");
  const auto fresh = [&] { export_gptq(directory, packed_model(spec_of(4, Range::full, 32)), {}); };
  fresh();
  const Json good = read_json_file(directory + "/config.json");
  const auto config = [&](const char* key, const Json& value) {
    Json bad = good;
    bad["quantization_config"][key] = value;
    folder.write("q/config.json", bad.dump());
    return refusal([&] { ModelSource::open(directory); });
  };
  expect_mentions(config("bits", 3), "bits is 3");
  expect_mentions(config("bits", "4"), "bits");
  expect_mentions(config("bits", 1e30), "bits");
  expect_mentions(config("bits", 8), "g_idx has shape [96], expected [48]");
  expect_mentions(config("group_size", 0), "group_size");
  expect_mentions(config("group_size", -7), "group_size");
  expect_mentions(config("group_size", 0.5), "group_size");
  expect_mentions(config("group_size", 16), "scales has shape [3, 64], expected [6, 64]");
  expect_mentions(config("checkpoint_format", "marlin"), "checkpoint_format");
  expect_mentions(config("dynamic", {{"+:.*", {{"bits", 8}}}}), "dynamic");
  expect_mentions(config("quant_method", "awq"), "");
  folder.write("q/config.json", good.dump());

  const auto damaged = [&](const char* part,
                           const std::function<void(SafetensorsEntry&, std::string&)>& change) {
    fresh();
    rewrite(directory, part, change);
    return refusal([&] {
      const auto source = ModelSource::open(directory);
      source->read_codes(kModule + std::string(".weight"));
    });
  };
  const auto gone = [](SafetensorsEntry& entry, std::string&) { entry.name.clear(); };
  for (const char* part : {"qweight", "qzeros", "scales"})
    expect_mentions(damaged(part, gone), kModule);
  const auto flat = [](SafetensorsEntry& entry, std::string&) {
    entry.shape = {entry.shape.count()};
  };
  for (const char* part : {"qweight", "qzeros", "scales"})
    expect_mentions(damaged(part, flat), part);
  expect_mentions(damaged("g_idx",
                          [](SafetensorsEntry&, std::string& bytes) {
                            const int32_t far = 1 << 30;
                            std::memcpy(bytes.data() + 40, &far, 4);
                          }),
                  "g_idx holds group 1073741824");
  for (const uint16_t bits : {0x0000, 0x8400, 0x7C00, 0x7E00})  // 0, negative, infinity, NaN
    expect_mentions(
        damaged("scales", [&](SafetensorsEntry&,
                              std::string& bytes) { std::memcpy(bytes.data() + 10, &bits, 2); }),
        "scale");
  expect_mentions(
      damaged("qzeros", [](SafetensorsEntry&, std::string& bytes) { bytes[0] = char(0xFF); }),
      "zero point");
  expect_mentions(damaged("qweight", [](SafetensorsEntry& entry,
                                        std::string&) { entry.type = StoredType::f32; }),
                  "dtype");
}

}  // namespace
}  // namespace qat
