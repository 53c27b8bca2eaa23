// The order in which layers may be quantized, by measured damage.
#include "models/sensitivity.h"

#include <gtest/gtest.h>

#include "engine/core/error.h"
#include "engine/quant/quant_schedule.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

TEST(SensitivityTest, TheSpoiltLayerComesLast) {
  for (const int64_t spoilt : {0, 1}) {
    TinyModel tiny("tests/golden/llama");
    tiny.add_outlier(spoilt, 3, 100.0f);
    const auto batches = tiny.batches(2, 2, 32);
    const QuantPlan plan = test::dynamic_plan(tiny.config, test::weight_spec(), test::token_spec());
    const auto layers = measure_sensitivity(tiny.measured(), plan, batches);
    ASSERT_EQ(layers.size(), 2u);
    EXPECT_EQ(least_damaging_first(layers), (std::vector<int64_t>{1 - spoilt, spoilt}));
    for (const LayerSensitivity& layer : layers) EXPECT_GT(layer.kl, 0.0);
    for (const Store::Entry& entry : tiny.store.entries())
      EXPECT_FALSE(entry.name.starts_with("sensitivity")) << entry.name;
  }
}

// KL(softmax p || softmax q) of two rows of logits.
double kl_of(const float* p, const float* q, int64_t count) {
  double p_sum = 0.0, q_sum = 0.0, result = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    p_sum += std::exp(double(p[i]));
    q_sum += std::exp(double(q[i]));
  }
  for (int64_t i = 0; i < count; ++i)
    result += std::exp(double(p[i])) / p_sum *
              ((double(p[i]) - std::log(p_sum)) - (double(q[i]) - std::log(q_sum)));
  return result;
}

// Mean over the batch's targets.
double kl_of_plan(TinyModel& tiny, const Batch& batch, const QuantPlan& plan) {
  const std::vector<float> exact = tiny.logits(batch), got = tiny.logits(batch, plan);
  double kl = 0.0;
  int64_t tokens = 0;
  for (size_t t = 0; t < batch.targets.size(); ++t) {
    if (batch.targets[t] < 0) continue;
    const size_t at = t * size_t(tiny.config.vocab);
    kl += kl_of(&exact[at], &got[at], tiny.config.vocab);
    ++tokens;
  }
  return kl / double(tokens);
}

TEST(SensitivityTest, KlIsThatOfTheLogits) {
  TinyModel tiny("tests/golden/qwen3");
  const auto batches = tiny.batches(1, 2, 32);
  const QuantPlan plan = test::dynamic_plan(tiny.config, test::weight_spec(4), test::token_spec());
  const auto layers = measure_sensitivity(tiny.measured(), plan, batches);
  ASSERT_EQ(layers.size(), 2u);
  for (const LayerSensitivity& layer : layers) {
    QuantPlan alone;
    for (const auto& [path, quant] : plan.linears)
      if (path.starts_with(fmt::format("model.layers.{}.", layer.layer)))
        alone.linears[path] = quant;
    const double kl = kl_of_plan(tiny, batches[0], alone);
    EXPECT_NEAR(layer.kl, kl, 1e-3 * kl + 1e-8);
  }
}

TEST(SensitivityTest, OrderIsByKlAndFitsTheSchedule) {
  const std::vector<LayerSensitivity> layers = {
      {0, 3e-3, 0.1}, {1, 1e-3, 0.0}, {2, 2e-3, -0.1}, {5, 1e-3, 0.0}};
  const std::vector<int64_t> order = least_damaging_first(layers);
  EXPECT_EQ(order, (std::vector<int64_t>{1, 5, 2, 0}));
  QuantScheduleOptions options;
  options.layers = 6;
  options.order = EnableOrder::listed;
  options.list = order;
  options.layers_per_stage = 1;
  options.every = 10;
  const QuantSchedule schedule(options);
  EXPECT_EQ(schedule.enabled_layers(0), std::vector<int64_t>{1});
  EXPECT_EQ(schedule.enabled_layers(20), (std::vector<int64_t>{1, 2, 5}));
}

TEST(SensitivityTest, OnlyPlannedLayersAndBf16) {
  TinyModel tiny("tests/golden/llama");
  QuantPlan plan;
  plan.linears["model.layers.1.mlp.down_proj"] = {test::weight_spec(4), test::token_spec()};
  auto batches = tiny.batches(1, 2, 32);
  const auto layers = measure_sensitivity(tiny.measured(DType::bf16), plan, batches);
  ASSERT_EQ(layers.size(), 1u);
  EXPECT_EQ(layers[0].layer, 1);
  EXPECT_GT(layers[0].kl, 0.0);
  EXPECT_TRUE(measure_sensitivity(tiny.measured(), {}, {}).empty());
  std::fill(batches[0].targets.begin(), batches[0].targets.end(), -1);
  EXPECT_THROW(measure_sensitivity(tiny.measured(), plan, batches), Error);
}

struct WidthCase {
  std::vector<WidthUnit> units = {
      {0, {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"}},
      {0, {"model.layers.0.mlp.down_proj"}},
      {1, {"model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"}}};
  std::map<int, QuantPlan> plans;

  // Inputs and what is found before training are no part of the measurement.
  explicit WidthCase(const ModelConfig& config) {
    for (const int bits : {3, 5}) {
      plans[bits] = test::static_plan(config, test::weight_spec(bits), test::tensor_spec());
      for (auto& [path, quant] : plans[bits].linears)
        quant.trained_scale = quant.stored_grid = true;
    }
  }
  QuantPlan alone(const WidthUnit& unit, int bits) const {
    QuantPlan plan;
    for (const std::string& path : unit.linears)
      plan.linears[path].weight = plans.at(bits).linears.at(path).weight;
    return plan;
  }
};

TEST(WidthSensitivityTest, EachEntryIsTheKlOfTheWholeModel) {
  for (const char* directory : {"tests/golden/qwen3", "tests/golden/llama"}) {
    TinyModel tiny(directory);
    const auto batches = tiny.batches(1, 2, 32);
    const WidthCase widths(tiny.config);
    const auto kl = measure_widths(tiny.measured(), widths.units, widths.plans, batches);
    ASSERT_EQ(kl.size(), widths.units.size());
    for (size_t i = 0; i < kl.size(); ++i) {
      for (const int bits : {3, 5}) {
        const double direct = kl_of_plan(tiny, batches[0], widths.alone(widths.units[i], bits));
        EXPECT_NEAR(kl[i].at(bits), direct, 1e-3 * direct + 1e-8) << directory << i;
      }
      EXPECT_GT(kl[i].at(3), 2 * kl[i].at(5));
    }
    for (const Store::Entry& entry : tiny.store.entries())
      EXPECT_FALSE(entry.name.starts_with("sensitivity")) << entry.name;
  }
}

// What a layer makes of its stored input is what the whole model computes, to the bit.
TEST(WidthSensitivityTest, IsTheLayersSensitivityWhereTheUnitIsTheLayer) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(2, 2, 32);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    QuantPlan plan;
    for (const std::string& path : decoder_linears(tiny.config))
      plan.linears[path].weight = test::weight_spec(4);
    std::vector<WidthUnit> units = {{0, {}}, {1, {}}};
    for (const auto& [path, quant] : plan.linears)
      units[size_t(layer_of(path))].linears.push_back(path);
    const auto layers = measure_sensitivity(tiny.measured(dtype), plan, batches);
    const auto kl = measure_widths(tiny.measured(dtype), units, {{4, plan}}, batches);
    ASSERT_EQ(kl.size(), 2u);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(kl[i].at(4), layers[i].kl) << i;
  }
}

TEST(WidthSensitivityTest, AllWeightsTogetherAreThatPlanWithoutItsInputs) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(1, 2, 32);
  const WidthCase widths(tiny.config);
  const auto kl = measure_weights(tiny.measured(), {widths.plans.at(3), {}}, batches);
  ASSERT_EQ(kl.size(), 2u);
  QuantPlan weights;
  for (const auto& [path, quant] : widths.plans.at(3).linears)
    weights.linears[path].weight = quant.weight;
  const double direct = kl_of_plan(tiny, batches[0], weights);
  EXPECT_NEAR(kl[0], direct, 1e-3 * direct);
  EXPECT_NEAR(kl[1], 0.0, 1e-9);
}

TEST(WidthSensitivityTest, EndsWhenAskedAndRefusesWhatIsNoNumber) {
  TinyModel tiny("tests/golden/llama");
  auto batches = tiny.batches(1, 2, 32);
  const WidthCase widths(tiny.config);
  int asked = 0;
  EXPECT_TRUE(measure_widths(tiny.measured(), widths.units, widths.plans, batches, [&] {
                return ++asked == 3;
              }).empty());
  EXPECT_EQ(asked, 3);
  for (const Store::Entry& entry : tiny.store.entries())
    EXPECT_FALSE(entry.name.starts_with("sensitivity")) << entry.name;
  tiny.store.get("model.norm.weight").as<float>()[0] = NAN;
  EXPECT_THROW(measure_widths(tiny.measured(), widths.units, widths.plans, batches), Error);
}

}  // namespace
}  // namespace qat
