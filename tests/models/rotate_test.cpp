// Rotated models compute what they computed, forward and backward, and few bits hold them better.
#include "models/rotate.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/ptq/rotation.h"
#include "models/families.h"
#include "tests/models/golden.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

// Norms and biases of fresh models are all alike; a fold that forgot them would not be seen.
void make_uneven(TinyModel& model) {
  for (const SourceTensor& tensor : expected_tensors(model.config)) {
    if (tensor.shape.rank() != 1) continue;
    const View v = model.store.get(tensor.name);
    for (int64_t i = 0; i < v.count(); ++i)
      v.as<float>()[i] += 0.4f * float(std::sin(double(i) * 1.7 + double(tensor.name.size())));
  }
}

void rotate_model(TinyModel& model, const OnlineRotations& online, uint64_t seed = 5) {
  model.config = rotated(model.config, online);
  rotate(model.config, seed, model.store, model.stream);
}

class Rotated : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, Rotated,
                         testing::Values("llama", "llama_untied", "llama3_rope", "mistral", "qwen2",
                                         "qwen3"));

TEST_P(Rotated, ComputesWhatItComputed) {
  for (const OnlineRotations online :
       {OnlineRotations{}, OnlineRotations{.down = true}, OnlineRotations{true, true}}) {
    TinyModel model(golden::path(GetParam()));
    make_uneven(model);
    const Batch batch = model.batches(1, 2, 24)[0];
    const std::vector<float> before = model.logits(batch);
    const View up = model.store.get("model.layers.0.mlp.up_proj.weight");
    const std::vector<float> weights(up.as<float>(), up.as<float>() + up.count());
    rotate_model(model, online);
    EXPECT_LT(test::distance(model.logits(batch), before), 2e-6);
    EXPECT_GT(test::distance({up.as<float>(), up.as<float>() + up.count()}, weights), 0.5);
    for (const SourceTensor& tensor : expected_tensors(model.config))
      EXPECT_EQ(model.store.get(tensor.name).shape, tensor.shape) << tensor.name;
  }
}

TEST_P(Rotated, IsWhatItsConfigurationSays) {
  const auto source = ModelSource::open(golden::path(GetParam()));
  const ModelConfig config = rotated(source->config(), {.down = true, .keys = true});
  EXPECT_FALSE(config.tied_head);
  const std::string json = rotated_config_json(source->config_json(), config);
  const ModelConfig back = config_from_huggingface(parse_json_object(json, "json"), "json");
  EXPECT_FALSE(back.tied_head);
  EXPECT_TRUE(back.online_down && back.online_keys);
  EXPECT_THROW(rotated(back, {}), Error);
  EXPECT_FALSE(source->config().online_down || source->config().online_keys);
}

TEST(RotatedTest, OtherSeedsTurnItElsewhere) {
  TinyModel one(golden::path("llama")), two(golden::path("llama"));
  rotate_model(one, {}, 1);
  rotate_model(two, {}, 2);
  const View a = one.store.get("lm_head.weight"), b = two.store.get("lm_head.weight");
  EXPECT_NE(std::memcmp(a.data, b.data, a.bytes()), 0);
}

// With transforms alone (no R1, R2) every parameter but down_proj's keeps its meaning, so gradients
// tell whether those of the transforms are right.
std::map<std::string, std::vector<float>> gradients(TinyModel& model, const Batch& batch,
                                                    Recompute recompute) {
  TrainingSpec spec;
  spec.config = model.config;
  spec.build.batch = batch.rows;
  spec.build.sequence = batch.sequence;
  spec.build.dtype = DType::f32;
  spec.recompute = recompute;
  for (const SourceTensor& t : expected_tensors(spec.config)) spec.trained.push_back(t.name);
  TrainingGraph training = build_training_graph(spec, {});
  std::vector<Id> results = {training.sums};
  for (const ParameterGradient& g : training.gradients) results.push_back(g.gradient);
  Program program =
      Program::compile(std::move(training.graph), results, model.store, cpu_kernels());
  const auto fill = [&](const char* name, const std::vector<int32_t>& from) {
    std::memcpy(model.store.get(name).data, from.data(), from.size() * sizeof(int32_t));
  };
  fill(kTokens, batch.ids);
  fill(kTargets, batch.targets);
  fill(kPositions, batch.positions);
  fill(kFirst, batch.first);
  model.store.get(kInvTokens).as<float>()[0] = 1.0f / float(batch.valid_targets);
  program.run(model.stream);
  std::map<std::string, std::vector<float>> result;
  for (const ParameterGradient& g : training.gradients) {
    const View view = program.view(g.gradient);
    result[g.name].assign(view.as<float>(), view.as<float>() + view.count());
  }
  return result;
}

TEST(RotatedTest, GradientsPassTheTransforms) {
  TinyModel plain(golden::path("llama")), turned(golden::path("llama"));
  const Batch batch = plain.batches(1, 2, 16)[0];
  turned.config.online_down = turned.config.online_keys = true;
  const Rotation inner(turned.config.ffn);
  for (int64_t i = 0; i < turned.config.layers; ++i)
    rotate_rows(turned.store.get(fmt::format("model.layers.{}.mlp.down_proj.weight", i)), inner, {},
                turned.stream);
  auto expected = gradients(plain, batch, Recompute::off);
  for (auto& [name, gradient] : expected)
    if (name.ends_with("down_proj.weight"))
      rotate_rows({reinterpret_cast<std::byte*>(gradient.data()),
                   {int64_t(gradient.size()) / turned.config.ffn, turned.config.ffn},
                   DType::f32},
                  inner, {}, turned.stream);
  const auto got = gradients(turned, batch, Recompute::off);
  for (const auto& [name, gradient] : expected)
    EXPECT_LT(golden::distance(got.at(name).data(), gradient), 5e-6) << name;
  EXPECT_EQ(gradients(turned, batch, Recompute::cheap), got);
}

// A channel that stands out costs four bits a token less where it is spread.
TEST(RotatedTest, FewBitsHoldIt) {
  const auto damage = [](bool rotates) {
    TinyModel model(golden::path("llama"));
    for (int64_t layer = 0; layer < model.config.layers; ++layer) model.add_outlier(layer, 7, 30);
    const Batch batch = model.batches(1, 2, 24)[0];
    const std::vector<float> exact = model.logits(batch);
    if (rotates) rotate_model(model, {.down = true});
    const QuantPlan plan =
        test::dynamic_plan(model.config, test::weight_spec(4), test::token_spec(4));
    return test::distance(model.logits(batch, plan), exact);
  };
  EXPECT_LT(damage(true), 0.6 * damage(false));
}

TEST(RotatedTest, StoriesModelIsTheSame) {
  const char* data = std::getenv("QAT_TEST_DATA");
  if (!data) GTEST_SKIP() << "QAT_TEST_DATA is not set";
  TinyModel model(std::string(data) + "/stories260k");
  const Batch batch = model.batches(1, 2, 96)[0];
  const std::vector<float> before = model.logits(batch);
  rotate_model(model, {.down = true, .keys = true});
  EXPECT_LT(test::distance(model.logits(batch), before), 2e-6);
}

}  // namespace
}  // namespace qat
