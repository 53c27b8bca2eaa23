// A KV cache on a grid: what training fakes is what generation and evaluation store.
#include <gtest/gtest.h>

#include "engine/graph/op.h"
#include "models/generate.h"
#include "tests/models/golden.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

const QuantSpec kQ8_0{
    .per = Per::group, .group = 8, .scale_type = ScaleType::f16, .division = Division::exact};
const QuantSpec kInt8Token{.scale_type = ScaleType::f16};
const QuantSpec kInt4{.bits = 4,
                      .per = Per::group,
                      .group = 8,
                      .range = Range::asymmetric,
                      .rule = ScaleRule::min_max,
                      .scale_type = ScaleType::f16};

QuantPlan kv_plan(const ModelConfig& config, const QuantSpec& grid) {
  QuantPlan plan;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    plan.kv_cache[attention_path(layer)] = grid;
  return plan;
}

std::vector<float> last_row(const std::vector<float>& logits, int64_t vocab) {
  return {logits.end() - vocab, logits.end()};
}

class StoredKeys : public testing::TestWithParam<QuantSpec> {};

// Prompts of one token, of less than a piece, and of several pieces with single tokens behind.
TEST_P(StoredKeys, GiveTheLogitsOfTheFakeQuantizedForward) {
  for (const int64_t tokens : {1, 9, 71}) {
    TinyModel model(golden::path("llama"));
    const Batch batch = model.batches(1, 1, tokens)[0];
    const QuantPlan plan = kv_plan(model.config, GetParam());
    const auto fake = last_row(model.logits(batch, plan), model.config.vocab);
    const auto exact = last_row(model.logits(batch), model.config.vocab);
    ForwardSpec spec;
    spec.config = model.config;
    spec.plan = plan;
    spec.build.dtype = DType::f32;
    Generator generator(spec, model.store, cpu_kernels(), model.stream, tokens + 1);
    generator.generate(batch.ids, {.max_tokens = 1});
    const std::vector<float> stored(generator.logits(), generator.logits() + model.config.vocab);
    // Products of one row and of many round differently, which may move a code to its neighbour.
    const double damage = test::distance(fake, exact);
    EXPECT_GT(damage, 1e-3) << "nothing was quantized";
    EXPECT_LT(test::distance(stored, fake), 0.05 * damage) << tokens;
    EXPECT_FALSE(model.store.find("cache.0.k")) << "keys also lie there as numbers";
    const View codes = model.store.get("cache.0.k.codes");
    EXPECT_EQ(codes.bytes(), size_t((tokens + 1) * model.config.kv_width() * GetParam().bits / 8));
    EXPECT_EQ(size_of(model.store.get("cache.0.k.scale").dtype), 2u);
  }
}

// What evaluation of a run does: a whole window over a cache that is stored.
TEST_P(StoredKeys, GiveTheLossOfTheFakeQuantizedForward) {
  TinyModel model(golden::path("llama"));
  const Batch batch = model.batches(1, 1, 40)[0];
  const auto loss = [&](std::optional<int64_t> cache) {
    ForwardSpec spec;
    spec.config = model.config;
    spec.plan = kv_plan(model.config, GetParam());
    spec.build.sequence = batch.sequence;
    spec.build.dtype = DType::f32;
    spec.build.cache = cache;
    ForwardGraph forward = build_forward_graph(spec);
    Program program =
        Program::compile(std::move(forward.graph), {forward.sums}, model.store, cpu_kernels());
    const auto fill = [&](const char* name, const std::vector<int32_t>& from) {
      if (const View view = model.store.find(name))
        std::memcpy(view.data, from.data(), from.size() * sizeof(int32_t));
    };
    fill(kTokens, batch.ids);
    fill(kTargets, batch.targets);
    fill(kPositions, batch.positions);
    fill(kFirst, batch.first);
    model.store.get(kInvTokens).as<float>()[0] = 1.0f;
    program.run(model.stream);
    return program.view(forward.sums).as<float>()[0];
  };
  const float fake = loss({}), stored = loss(40);
  EXPECT_NEAR(stored, fake, 1e-5f * fake);
}

INSTANTIATE_TEST_SUITE_P(Grids, StoredKeys, testing::Values(kQ8_0, kInt8Token, kInt4));

// Layers join as those of linears do, and a teacher keeps its keys as they are.
TEST(KvCache, IsQuantizedInEnabledLayersOnly) {
  const auto source = ModelSource::open(golden::path("llama"));
  TrainingSpec spec;
  spec.config = source->config();
  spec.teacher = source->config();
  spec.build.sequence = 8;
  spec.plan = kv_plan(spec.config, kInt4);
  for (const SourceTensor& t : source->tensors()) spec.trained.push_back(t.name);
  const auto quantizers = [&](const EnabledLayers& enabled) {
    std::map<std::string, int> found;
    for (const Node& node : build_training_graph(spec, enabled).graph.nodes)
      if (node.op == &kFakeQuant && !node.backward) ++found[node.path];
    return found;
  };
  EXPECT_TRUE(quantizers({}).empty());
  const auto second = quantizers({1});
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second.begin()->first, attention_path(1));
  EXPECT_EQ(second.begin()->second, 2);
  EXPECT_EQ(quantizers(all_layers(spec.config)).size(), size_t(spec.config.layers));
}

}  // namespace
}  // namespace qat
