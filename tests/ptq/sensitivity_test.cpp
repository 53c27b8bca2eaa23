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

TEST(SensitivityTest, KlIsThatOfTheLogits) {
  TinyModel tiny("tests/golden/qwen3");
  const auto batches = tiny.batches(1, 2, 32);
  const QuantPlan plan = test::dynamic_plan(tiny.config, test::weight_spec(4), test::token_spec());
  const auto layers = measure_sensitivity(tiny.measured(), plan, batches);
  ASSERT_EQ(layers.size(), 2u);
  const std::vector<float> exact = tiny.logits(batches[0]);
  for (const LayerSensitivity& layer : layers) {
    QuantPlan alone;
    for (const auto& [path, quant] : plan.linears)
      if (path.starts_with(fmt::format("model.layers.{}.", layer.layer)))
        alone.linears[path] = quant;
    const std::vector<float> got = tiny.logits(batches[0], alone);
    double kl = 0.0;
    int64_t tokens = 0;
    for (size_t t = 0; t < batches[0].targets.size(); ++t) {
      if (batches[0].targets[t] < 0) continue;
      const size_t at = t * size_t(tiny.config.vocab);
      kl += kl_of(&exact[at], &got[at], tiny.config.vocab);
      ++tokens;
    }
    kl /= double(tokens);
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

}  // namespace
}  // namespace qat
