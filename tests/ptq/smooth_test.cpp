// SmoothQuant: its factors, that the model stays the same, and that it helps where it should.
#include "models/smooth.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/core/error.h"
#include "engine/ptq/smoothing.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::distance;
using test::TinyModel;

QuantPlan w8a8(const ModelConfig& config) {
  return test::dynamic_plan(config, test::weight_spec(), test::token_spec());
}

SmoothOptions fixed(float alpha) {
  SmoothOptions options;
  options.mode = SmoothMode::fixed;
  options.alpha = alpha;
  return options;
}
SmoothOptions search() {
  SmoothOptions options;
  options.mode = SmoothMode::search;
  options.search_tokens = 100;
  return options;
}

TEST(SmoothingTest, FactorsByTheFormula) {
  const std::vector<float> input = {8.0f, 2.0f, 0.0f, 1e-12f, 4.0f};
  const std::vector<float> weight = {0.5f, 2.0f, 1.0f, 4.0f, 0.0f};
  const auto half = smoothing_factors(input, weight, 0.5f);
  EXPECT_FLOAT_EQ(half[0], 4.0f);  // sqrt(8) / sqrt(0.5)
  EXPECT_FLOAT_EQ(half[1], 1.0f);
  EXPECT_EQ(half[2], 1.0f);                           // never seen
  EXPECT_EQ(half[3], 1e-5f);                          // 1e-6 / 2, clamped
  EXPECT_FLOAT_EQ(half[4], 2.0f / std::sqrt(1e-5f));  // the weight's maximum, clamped
  const auto most = smoothing_factors(input, weight, 0.75f);
  EXPECT_FLOAT_EQ(most[0], float(std::pow(8.0, 0.75) / std::pow(0.5, 0.25)));
}

TEST(SmoothingTest, ColumnsOfBothTypes) {
  std::vector<float> w = {1.0f, -4.0f, 3.0f, 2.0f};
  const View view{reinterpret_cast<std::byte*>(w.data()), {2, 2}, DType::f32};
  std::vector<float> amax = {0.0f, 0.0f};
  widen_column_amax(view, amax);
  EXPECT_EQ(amax, (std::vector<float>{3.0f, 4.0f}));
  multiply_columns(view, std::vector<float>{2.0f, 0.5f});
  EXPECT_EQ(w, (std::vector<float>{2.0f, -2.0f, 6.0f, 1.0f}));
  std::vector<uint16_t> narrow = {0x3F80, 0x4000};  // 1, 2
  const View bf16{reinterpret_cast<std::byte*>(narrow.data()), {1, 2}, DType::bf16};
  multiply_columns(bf16, std::vector<float>{1.00390625f, 3.0f});  // half way: rounds to even
  EXPECT_EQ(narrow, (std::vector<uint16_t>{0x3F80, 0x40C0}));
  EXPECT_THROW(multiply_columns(view, std::vector<float>{1.0f}), Error);
}

class SmoothFamilies : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, SmoothFamilies,
                         testing::Values("llama", "llama_untied", "llama3_rope", "linear_rope",
                                         "mistral", "qwen2", "qwen3"));

TEST_P(SmoothFamilies, KeepsTheLogits) {
  for (const SmoothOptions& options : {fixed(0.8f), search()}) {
    TinyModel tiny(std::string("tests/golden/") + GetParam());
    const auto batches = tiny.batches(2, 2, 32);
    tiny.add_outlier(1, 5, 40.0f);
    const std::vector<float> before = tiny.logits(batches[0]);
    const View norm = tiny.store.get("model.layers.1.input_layernorm.weight");
    const float outlier = norm.as<float>()[5];
    const auto smoothed = smooth(tiny.measured(), w8a8(tiny.config), batches, options);
    EXPECT_EQ(smoothed.size(), size_t(4 * tiny.config.layers));
    EXPECT_LT(distance(tiny.logits(batches[0]), before), 1e-5);
    EXPECT_LT(std::abs(norm.as<float>()[5]), 0.5f * std::abs(outlier));
    for (const Store::Entry& entry : tiny.store.entries())
      EXPECT_FALSE(entry.name.starts_with("smooth.")) << entry.name;
  }
}

TEST(SmoothTest, BringsAnOutliersModelBack) {
  for (const SmoothOptions& options : {fixed(0.5f), search()}) {
    TinyModel tiny("tests/golden/llama");
    const auto batches = tiny.batches(3, 2, 32);
    const QuantPlan plan = w8a8(tiny.config);
    const std::vector<float> exact = tiny.logits(batches[0]);
    const double clean = distance(tiny.logits(batches[0], plan), exact);
    tiny.add_outlier(0, 7, 200.0f);
    tiny.add_outlier(1, 9, 200.0f);
    const double spoilt = distance(tiny.logits(batches[0], plan), exact);
    const auto smoothed = smooth(tiny.measured(), plan, batches, options);
    const double repaired = distance(tiny.logits(batches[0], plan), exact);
    EXPECT_GT(spoilt, 3.0 * clean);
    EXPECT_LT(repaired, 1.5 * clean);
    for (const SmoothedPair& pair : smoothed) {
      if (options.mode == SmoothMode::fixed) continue;
      EXPECT_LE(pair.error_after, pair.error_before);
      if (!pair.from.ends_with("input_layernorm")) continue;
      EXPECT_TRUE(pair.alpha.has_value());
      EXPECT_LT(pair.error_after, 0.2 * pair.error_before);
    }
  }
}

TEST(SmoothTest, SearchFoldsWhatFixedFoldsWithItsAlpha) {
  TinyModel searched("tests/golden/llama"), given("tests/golden/llama");
  const auto batches = given.batches(1, 2, 32);
  const QuantPlan plan = w8a8(given.config);
  searched.add_outlier(0, 7, 30.0f);
  given.add_outlier(0, 7, 30.0f);
  SmoothOptions options = search();
  options.folds = {SmoothFold::norm};
  const auto found = smooth(searched.measured(), plan, batches, options);
  ASSERT_TRUE(found[0].alpha.has_value());
  options.mode = SmoothMode::fixed;
  options.alpha = *found[0].alpha;
  smooth(given.measured(), plan, batches, options);
  const std::string name = "model.layers.0.self_attn.k_proj.weight";
  const View a = given.store.get(name), b = searched.store.get(name);
  for (int64_t i = 0; i < a.count(); ++i) ASSERT_EQ(a.as<float>()[i], b.as<float>()[i]);
}

// An outlier that a row of up_proj or v_proj makes reaches down_proj or o_proj; it goes back there.
TEST(SmoothTest, RowsTakeWhatTheirOutputsBring) {
  for (const char* which : {"mlp.up_proj", "self_attn.v_proj"}) {
    TinyModel tiny("tests/golden/llama");  // four heads share two value heads
    const auto batches = tiny.batches(2, 2, 32);
    const std::string up =
        std::string(which) == "mlp.up_proj" ? "mlp.down_proj" : "self_attn.o_proj";
    const View rows = tiny.store.get("model.layers.0." + std::string(which) + ".weight");
    for (int64_t c = 0; c < rows.cols(); ++c) rows.as<float>()[3 * rows.cols() + c] *= 100.0f;
    QuantPlan plan;
    plan.linears["model.layers.0." + up] = {test::weight_spec(), test::token_spec()};
    const std::vector<float> exact = tiny.logits(batches[0]);
    const double spoilt = distance(tiny.logits(batches[0], plan), exact);
    const auto smoothed = smooth(tiny.measured(), plan, batches, fixed(0.5f));
    ASSERT_EQ(smoothed.size(), 1u);
    EXPECT_EQ(smoothed[0].from, "model.layers.0." + std::string(which));
    EXPECT_LT(distance(tiny.logits(batches[0]), exact), 1e-5) << which;
    // Half of the difficulty, on a log scale, stays with the input.
    EXPECT_LT(distance(tiny.logits(batches[0], plan), exact), 0.7 * spoilt) << which;
  }
}

TEST(SmoothTest, StaysAwayFromWhatIsNotAskedFor) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(1, 2, 32);
  const std::vector<float> before = tiny.logits(batches[0]);
  EXPECT_TRUE(smooth(tiny.measured(), w8a8(tiny.config), batches, {}).empty());
  EXPECT_TRUE(smooth(tiny.measured(), {}, batches, fixed(0.5f)).empty());
  QuantPlan down;
  down.linears["model.layers.0.mlp.down_proj"] = {test::weight_spec(), test::token_spec()};
  SmoothOptions norms_only = fixed(0.5f);
  norms_only.folds = {SmoothFold::norm};
  EXPECT_TRUE(smooth(tiny.measured(), down, batches, norms_only).empty());
  EXPECT_EQ(tiny.logits(batches[0]), before);

  QuantPlan key_only;
  key_only.linears["model.layers.1.self_attn.k_proj"] = {test::weight_spec(), test::token_spec()};
  EXPECT_THROW(smooth(tiny.measured(), key_only, batches, fixed(1.5f)), Error);
  EXPECT_EQ(tiny.logits(batches[0]), before);
  const auto smoothed = smooth(tiny.measured(), key_only, batches, fixed(0.5f));
  ASSERT_EQ(smoothed.size(), 1u);
  EXPECT_EQ(smoothed[0].from, "model.layers.1.input_layernorm");
  EXPECT_LT(distance(tiny.logits(batches[0]), before), 1e-5);
}

TEST(SmoothTest, RoundsBf16Masters) {
  TinyModel tiny("tests/golden/mistral", DType::bf16);
  const auto batches = tiny.batches(1, 2, 32);
  const std::vector<float> before = tiny.logits(batches[0]);
  smooth(tiny.measured(), w8a8(tiny.config), batches, fixed(0.5f));
  const double change = distance(tiny.logits(batches[0]), before);
  EXPECT_GT(change, 1e-6);
  EXPECT_LT(change, 2e-2);
}

}  // namespace
}  // namespace qat
