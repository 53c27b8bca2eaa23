// Calibrated grids against the values that the linears read.
#include "models/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/core/error.h"
#include "engine/ops/ops.h"
#include "models/prepare.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::distance;
using test::TinyModel;

constexpr const char* kDown = "model.layers.1.mlp.down_proj";

std::vector<float> input_values(TinyModel& tiny, const std::vector<Batch>& batches,
                                const std::string& linear) {
  const MeasuredModel model = tiny.measured();
  const DecoderBuild build = build_for(model, batches);
  Graph graph;
  Builder b(graph);
  decoder_hidden(b, tiny.config, build);
  Id id = kNone;
  for (const Node& node : graph.nodes)
    if (node.op == &kLinear && node.path == linear) id = node.inputs[0];
  MeasuringProgram program(std::move(graph), {id}, model, build);
  program.run_prologue();
  std::vector<float> values;
  for (const Batch& batch : batches) {
    program.run(batch);
    const View view = program.view(id);
    values.insert(values.end(), view.as<float>(), view.as<float>() + view.count());
  }
  return values;
}

float scale(const TinyModel& tiny, const std::string& path) {
  return tiny.store.get(activation_scale_name(path)).as<float>()[0];
}

TEST(CalibrateTest, MinMaxTakesTheLargestValue) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(3, 2, 24);
  const QuantPlan plan = test::static_plan(tiny.config, test::weight_spec(), test::tensor_spec());
  const auto result = calibrate_activations(tiny.measured(), plan, batches, {});
  EXPECT_EQ(result.size(), size_t(4 * tiny.config.layers));
  for (const std::string& path : decoder_linears(tiny.config)) {
    float amax = 0.0f;
    for (const float x : input_values(tiny, batches, path)) amax = std::max(amax, std::abs(x));
    EXPECT_EQ(scale(tiny, path), amax / 127.0f) << path;
    EXPECT_FALSE(tiny.store.find(activation_zero_name(path)));
  }
  const std::string layer = "model.layers.0.";
  EXPECT_EQ(scale(tiny, layer + "self_attn.q_proj"), scale(tiny, layer + "self_attn.v_proj"));
  EXPECT_EQ(scale(tiny, layer + "mlp.gate_proj"), scale(tiny, layer + "mlp.up_proj"));
  for (const Store::Entry& entry : tiny.store.entries())
    EXPECT_FALSE(entry.name.starts_with("observe.")) << entry.name;
}

TEST(CalibrateTest, PercentileOfTheMagnitudes) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(4, 2, 32);
  const QuantPlan plan = test::static_plan(tiny.config, test::weight_spec(), test::tensor_spec());
  std::vector<float> sizes = input_values(tiny, batches, kDown);
  for (float& x : sizes) x = std::abs(x);
  std::sort(sizes.begin(), sizes.end());
  for (const double percentile : {90.0, 99.0, 99.9}) {
    calibrate_activations(tiny.measured(), plan, batches, {RangeRule::percentile, percentile});
    const float exact = sizes[size_t(percentile / 100.0 * double(sizes.size() - 1))];
    EXPECT_NEAR(scale(tiny, kDown) * 127.0f, exact, 3e-3f * sizes.back()) << percentile;
  }
}

TEST(CalibrateTest, LeastErrorIsLowerThanMinMax) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(4, 2, 32);
  const std::vector<float> values = input_values(tiny, batches, kDown);
  for (const Range range : {Range::strict, Range::asymmetric}) {
    const QuantSpec spec = test::tensor_spec(4, range);
    const QuantPlan plan = test::static_plan(tiny.config, test::weight_spec(), spec);
    const auto error = [&](RangeRule rule) {
      calibrate_activations(tiny.measured(), plan, batches, {rule, 99.9});
      const float zero =
          spec.symmetric() ? 0.0f : tiny.store.get(activation_zero_name(kDown)).as<float>()[0];
      double sum = 0.0;
      for (const float x : values) {
        const float code = code_of(x, 1.0f / scale(tiny, kDown), zero, code_range(spec));
        sum += std::pow(double(x) - double((code - zero) * scale(tiny, kDown)), 2);
      }
      return sum;
    };
    EXPECT_LT(error(RangeRule::mse), 0.9 * error(RangeRule::min_max)) << int(range);
  }
}

TEST(CalibrateTest, TheStaticModelRunsOnTheseGrids) {
  for (const Range range : {Range::strict, Range::asymmetric}) {
    TinyModel tiny("tests/golden/qwen2");
    const auto batches = tiny.batches(4, 2, 32);
    const std::vector<float> exact = tiny.logits(batches[0]);
    const QuantPlan plan =
        test::static_plan(tiny.config, test::weight_spec(), test::tensor_spec(8, range));
    calibrate_activations(tiny.measured(), plan, batches, {});
    const double error = distance(tiny.logits(batches[0], plan), exact);
    EXPECT_GT(error, 1e-4);
    EXPECT_LT(error, 0.05);
  }
}

TEST(CalibrateTest, Bf16AndASmallerLastBatch) {
  TinyModel tiny("tests/golden/llama", DType::bf16);
  auto batches = tiny.batches(2, 3, 24);
  batches.push_back(tiny.batches(1, 1, 24, 9)[0]);
  const QuantPlan plan = test::static_plan(tiny.config, test::weight_spec(), test::tensor_spec());
  calibrate_activations(tiny.measured(DType::bf16), plan, batches, {});
  const float in_bf16 = scale(tiny, kDown);
  calibrate_activations(tiny.measured(DType::f32), plan, batches, {});
  EXPECT_NEAR(in_bf16, scale(tiny, kDown), 0.03f * in_bf16);
}

TEST(CalibrateTest, DynamicPlansNeedNothing) {
  TinyModel tiny("tests/golden/llama");
  const QuantPlan plan = test::dynamic_plan(tiny.config, test::weight_spec(), test::token_spec());
  EXPECT_TRUE(calibrate_activations(tiny.measured(), plan, {}, {}).empty());
  EXPECT_FALSE(needs_calibration(plan, {}));
  EXPECT_TRUE(prepare_for_quantization(tiny.measured(), plan, {}, {}).calibrated.empty());
  PrepareOptions options;
  options.smooth.mode = SmoothMode::fixed;
  EXPECT_TRUE(needs_calibration(plan, options));
  EXPECT_FALSE(needs_calibration({}, options));
}

TEST(PrepareTest, SmoothsBeforeItCalibratesAndLooksAtAFewSequencesForSensitivity) {
  TinyModel tiny("tests/golden/llama"), apart("tests/golden/llama");
  const auto batches = tiny.batches(3, 2, 24);
  const QuantPlan plan = test::static_plan(tiny.config, test::weight_spec(), test::tensor_spec());
  PrepareOptions options;
  options.smooth = {.mode = SmoothMode::fixed, .alpha = 0.5f};
  options.sensitivity = MeasureSensitivity::yes;
  options.sensitivity_samples = 3;
  const PreparedModel prepared = prepare_for_quantization(tiny.measured(), plan, batches, options);

  smooth(apart.measured(), plan, batches, options.smooth);
  calibrate_activations(apart.measured(), plan, batches, options.range);
  for (const std::string& path : decoder_linears(tiny.config))
    EXPECT_EQ(scale(tiny, path), scale(apart, path));
  const auto expected = measure_sensitivity(apart.measured(), plan, {batches[0], batches[1]});
  ASSERT_EQ(prepared.sensitivity.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(prepared.sensitivity[i].kl, expected[i].kl);
  EXPECT_EQ(prepared.order, least_damaging_first(expected));
}

TEST(CalibrateTest, BadInputIsRefused) {
  TinyModel tiny("tests/golden/llama");
  const QuantPlan plan = test::static_plan(tiny.config, test::weight_spec(), test::tensor_spec());
  EXPECT_THROW(calibrate_activations(tiny.measured(), plan, {}, {}), Error);
  tiny.store.get("model.layers.1.input_layernorm.weight").as<float>()[3] = INFINITY;
  try {
    calibrate_activations(tiny.measured(), plan, tiny.batches(1, 1, 16), {});
    FAIL() << "an infinite activation was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::diverged);
    EXPECT_NE(std::string(error.what()).find("model.layers.1.self_attn.q_proj"), std::string::npos)
        << error.what();
  }
}

TEST(CalibrationBatchesTest, SamplesAreDividedIntoBatches) {
  std::vector<int64_t> asked;
  const auto next = [&](int64_t rows) {
    asked.push_back(rows);
    Batch batch;
    batch.rows = rows;
    return batch;
  };
  EXPECT_EQ(calibration_batches(next, 10, 4).size(), 3u);
  EXPECT_EQ(asked, (std::vector<int64_t>{4, 4, 2}));
}

}  // namespace
}  // namespace qat
