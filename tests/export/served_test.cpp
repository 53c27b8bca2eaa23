// What is served is what was trained: a model read back from each format, with the activations its
// runtime quantizes, computes what the fake-quantized model computed.
#include <gtest/gtest.h>

#include "engine/io/json.h"
#include "models/compare.h"
#include "models/export/compressed_tensors.h"
#include "models/export/packed.h"
#include "models/source.h"
#include "models/stored_codes.h"
#include "tests/export/small_model.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::Folder;
using test::refusal;

// A model in a Store, the plan it is trained under, and its export as the runs make it.
struct Trained {
  explicit Trained(const LinearQuant& quant, float static_scale = 0.02f) {
    config = test::small_config();
    initialize_parameters(config, store, 0.08f, 7);
    fill_rope_table(config, store, "");
    for (const std::string& path : decoder_linears(config)) {
      plan.linears[path] = quant;
      if (!quant.static_activation) continue;
      store.make(activation_scale_name(path), {1}, DType::f32, Category::state).as<float>()[0] =
          static_scale;
      store.make(activation_zero_name(path), {1}, DType::f32, Category::state).as<float>()[0] = 3;
    }
    model.config_json = config_to_huggingface(config);
    model.tensors = export_tensors(config);
    for (ExportTensor& tensor : model.tensors) {
      if (!tensor.name.ends_with("_proj.weight")) continue;
      tensor.quant = quant;
      if (quant.static_activation) tensor.input_scale = static_scale, tensor.input_zero = 3.0f;
    }
    model.codes = [this](const ExportTensor& tensor) { return codes(tensor); };
    model.floats = [this](const ExportTensor& tensor, float* out) {
      const View from = store.get(tensor.name);
      std::copy(from.as<float>(), from.as<float>() + from.count(), out);
    };
  }

  QuantizedMatrix codes(const ExportTensor& tensor) {
    QuantizedMatrix m{.spec = *tensor.quant.weight,
                      .shape = tensor.shape,
                      .codes = {},
                      .scales = {},
                      .zeros = {}};
    const int64_t scales = tensor.shape[0] * m.groups();
    m.codes.resize(size_t(tensor.shape.count()));
    m.scales.resize(size_t(scales));
    if (!m.spec.symmetric()) m.zeros.resize(size_t(scales));
    const auto view = [](auto& v, Shape shape, DType dtype) {
      return View{reinterpret_cast<std::byte*>(v.data()), shape, dtype};
    };
    Quantize args{store.get(tensor.name),
                  {},
                  {},
                  view(m.codes, tensor.shape, DType::i8),
                  view(m.scales, {scales}, DType::f32),
                  {},
                  m.spec};
    if (!m.zeros.empty()) args.zero = view(m.zeros, {scales}, DType::f32);
    cpu_kernels().quantize.run(args, stream);
    return m;
  }

  Stream stream{1};
  Store store;
  ModelConfig config;
  QuantPlan plan;
  ExportModel model;
};

std::vector<Batch> some_text() {
  std::vector<int32_t> ids;
  for (int i = 0; i < 96; ++i) ids.push_back(int32_t(philox(3, 0, uint64_t(i))[0] % 40));
  return windows_of(ids, 32, 3);
}

Agreement against_export(Trained& trained, const std::string& directory, QuantPlan* served) {
  Store store;
  const auto source = ModelSource::open(directory);
  *served = load_deployed(*source, store, DType::f32, Category::masters);
  fill_rope_table(source->config(), store, "");
  return compare_models({trained.config, trained.plan, trained.store},
                        {source->config(), *served, store}, cpu_kernels(), trained.stream,
                        some_text());
}

const QuantSpec kInt8Row = {.bits = 8, .per = Per::row};
const QuantSpec kInt4 = {.bits = 4,
                         .per = Per::group,
                         .group = 32,
                         .range = Range::full,
                         .rule = ScaleRule::mse,
                         .scale_type = ScaleType::portable};
const QuantSpec kInt4Zero = {.bits = 4,
                             .per = Per::group,
                             .group = 32,
                             .range = Range::asymmetric,
                             .rule = ScaleRule::min_max,
                             .scale_type = ScaleType::portable};
const QuantSpec kStatic = {.bits = 8, .per = Per::tensor, .range = Range::full};
const QuantSpec kStaticZero = {
    .bits = 8, .per = Per::tensor, .range = Range::asymmetric, .rule = ScaleRule::min_max};
const QuantSpec kTokenZero = {
    .bits = 8, .per = Per::row, .range = Range::asymmetric, .rule = ScaleRule::min_max};

TEST(Served, CompressedTensorsComputesWhatWasTrained) {
  struct Case {
    const char* name;
    LinearQuant quant;
  };
  for (const Case& c :
       {Case{"W8A8", {.weight = kInt8Row, .activation = kInt8Row}},
        {"W4A8", {.weight = kInt4, .activation = kInt8Row}},
        {"W4A16", {.weight = kInt4, .activation = {}}},
        {"W4A16 with zero points", {.weight = kInt4Zero, .activation = {}}},
        {"W8A8 asymmetric", {.weight = kInt8Row, .activation = kTokenZero}},
        {"W8A8 static", {.weight = kInt8Row, .activation = kStatic, .static_activation = true}},
        {"W8A8 static, zero point",
         {.weight = kInt8Row, .activation = kStaticZero, .static_activation = true}}}) {
    SCOPED_TRACE(c.name);
    const Folder folder;
    Trained trained(c.quant);
    export_compressed_tensors(folder.file("ct"), trained.model, {});
    QuantPlan served;
    const Agreement a = against_export(trained, folder.file("ct"), &served);
    ASSERT_EQ(served.linears.size(), trained.plan.linears.size());
    for (const auto& [path, linear] : served.linears) {
      EXPECT_TRUE(linear.stored_weight);
      EXPECT_EQ(linear.activation, c.quant.activation) << path;
      EXPECT_EQ(linear.static_activation, c.quant.static_activation);
    }
    // The same codes, the same order of sums: the same bits.
    EXPECT_EQ(a.kl, 0.0);
    EXPECT_EQ(a.same_likeliest, 1.0);
    EXPECT_EQ(a.perplexity, a.reference_perplexity);
    EXPECT_EQ(a.tokens, 3 * 31);
  }
}

TEST(Served, ActivationsMatter) {
  const Folder folder;
  Trained trained({.weight = kInt8Row, .activation = QuantSpec{.bits = 4, .per = Per::row}});
  export_compressed_tensors(folder.file("ct"), trained.model, {});
  QuantPlan served;
  EXPECT_EQ(against_export(trained, folder.file("ct"), &served).kl, 0.0);
  for (auto& [path, linear] : trained.plan.linears) linear.activation.reset();
  EXPECT_GT(against_export(trained, folder.file("ct"), &served).kl, 1e-5);
}

TEST(Served, GptqAndAwqComputeWhatWasTrained) {
  for (const QuantSpec& spec : {kInt4, kInt4Zero}) {
    const Folder folder;
    Trained trained({.weight = spec, .activation = {}});
    export_gptq(folder.file("g"), trained.model, {}, {.type = StoredType::f32});
    export_awq(folder.file("a"), trained.model, {}, {.type = StoredType::f32});
    for (const char* name : {"g", "a"}) {
      QuantPlan served;
      EXPECT_EQ(against_export(trained, folder.file(name), &served).kl, 0.0) << name;
      EXPECT_EQ(served.linears.size(), 14u);
    }
  }
}

// The int8 product is taken for codes from a file as for codes from masters.
TEST(Served, StoredCodesAreMultipliedAsIntegers) {
  const Folder folder;
  Trained trained({.weight = kInt8Row, .activation = kInt8Row});
  export_compressed_tensors(folder.file("ct"), trained.model, {});
  Store store;
  const auto source = ModelSource::open(folder.file("ct"));
  ForwardSpec spec;
  spec.config = source->config();
  spec.plan = load_deployed(*source, store, DType::f32, Category::masters);
  spec.build.dtype = DType::f32;
  spec.fuse = Switch::on;
  EXPECT_FALSE(store.find("model.layers.0.mlp.up_proj.weight"));
  const ForwardGraph forward = build_forward_graph(spec);
  int integer = 0, floating = 0;
  for (const Node& node : forward.graph.nodes) {
    integer += node.op == &kLinearInt8;
    floating += node.op == &kLinear || node.op == &kDequantize;
  }
  EXPECT_EQ(integer, 14);
  EXPECT_EQ(floating, 0);
}

TEST(Served, RefusesActivationsThatAreNotComputed) {
  const Folder folder;
  Trained trained({.weight = kInt8Row, .activation = kInt8Row});
  export_compressed_tensors(folder.file("ct"), trained.model, {});
  const Json good = read_json_file(folder.file("ct/config.json"));
  const auto refused = [&](const char* key, const Json& value) {
    Json bad = good;
    bad["quantization_config"]["config_groups"]["group_0"]["input_activations"][key] = value;
    folder.write("ct/config.json", bad.dump());
    return refusal([&] { ModelSource::open(folder.file("ct")); });
  };
  expect_mentions(refused("type", "complex"), "input_activations.type");
  expect_mentions(refused("num_bits", 16), "input_activations.num_bits");
  expect_mentions(refused("strategy", "group"), "input_activations.strategy");
  expect_mentions(refused("dynamic", "local"), "input_activations.dynamic");
  expect_mentions(refused("dynamic", false), "input_activations.strategy");
  Json bad = good;
  bad["quantization_config"]["config_groups"]["group_0"]["output_activations"] = {{"num_bits", 8}};
  folder.write("ct/config.json", bad.dump());
  expect_mentions(refusal([&] { ModelSource::open(folder.file("ct")); }), "output_activations");
}

TEST(Served, RefusesDamagedStaticScales) {
  const LinearQuant quant = {.weight = kInt8Row, .activation = kStatic, .static_activation = true};
  for (const float scale : {0.0f, -1.0f, std::nanf(""), INFINITY}) {
    const Folder folder;
    Trained trained(quant, scale);
    // The exporter's own check reads the file back, and so finds it.
    try {
      export_compressed_tensors(folder.file("ct"), trained.model, {});
      ADD_FAILURE() << scale;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::not_verified);
      expect_mentions(error.what(), "input_scale");
    }
  }
}

// A check of the caller's own is asked before the name is given.
TEST(Served, WhatDoesNotComputeTheSameIsKeptAside) {
  const Folder folder;
  Trained trained({.weight = kInt8Row, .activation = kInt8Row});
  trained.model.check = [](const std::string& path) {
    EXPECT_TRUE(std::filesystem::exists(path + "/config.json"));
    return std::string("its logits differ");
  };
  try {
    export_compressed_tensors(folder.file("ct"), trained.model, {});
    ADD_FAILURE() << "was verified";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::not_verified);
    expect_mentions(error.what(), "its logits differ");
  }
  EXPECT_FALSE(std::filesystem::exists(folder.file("ct")));
  EXPECT_TRUE(std::filesystem::exists(folder.file("ct.not-verified")));
}

}  // namespace
}  // namespace qat
