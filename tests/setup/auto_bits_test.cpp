// What quantize.auto_bits has to choose from, what it chooses, and what becomes of the choice.
#include "recipes/run/auto_bits.h"

#include <gtest/gtest.h>

#include "engine/quant/stored_bits.h"
#include "models/decoder.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/quant_summary.h"
#include "tests/io/files.h"
#include "tests/ptq/tiny_model.h"
#include "tests/setup/options.h"

namespace qat {
namespace {

using test::config_of;

recipe::QuantizeOptions automatic(const char* preset, double budget,
                                  const std::vector<int64_t>& candidates = {4, 8}) {
  recipe::QuantizeOptions quantize = test::preset(preset);
  quantize.auto_bits.budget = budget;
  quantize.auto_bits.candidates = candidates;
  return quantize;
}

TEST(StoredBits, CountScalesZeroPointsAndMinima) {
  const Shape shape{32, 256};
  const int64_t weights = 32 * 256;
  EXPECT_EQ(stored_bits(shape, {.bits = 4}), weights * 4 + 32 * 32);
  EXPECT_EQ(stored_bits(shape, {.bits = 8, .per = Per::tensor}), weights * 8 + 32);
  QuantSpec groups{.bits = 4, .per = Per::group, .group = 64};
  groups.scale_type = ScaleType::f16;
  EXPECT_EQ(stored_bits(shape, groups), weights * 4 + 32 * 4 * 16);
  groups.range = Range::asymmetric;
  EXPECT_EQ(stored_bits(shape, groups), weights * 4 + 32 * 4 * (16 + 4));
  groups.range = Range::minimum;
  EXPECT_EQ(stored_bits(shape, groups), weights * 4 + 32 * 4 * 32);
  EXPECT_EQ(stored_bits(shape, q4_k_grid()), weights * 45 / 10);
  EXPECT_EQ(stored_bits(shape, q6_k_grid()), weights / 256 * 210 * 8);
}

TEST(AutoBits, UnitsAreWhatRuntimesFuse) {
  const ModelConfig config = config_of(256, 512);
  const BitChoices choices = bit_choices(automatic("ct_w4a16_g128", 5), config);
  ASSERT_EQ(choices.units.size(), 8u);
  EXPECT_EQ(choices.units[4].layer, 1);
  EXPECT_EQ(choices.units[4].linears,
            (std::vector<std::string>{"model.layers.1.self_attn.q_proj",
                                      "model.layers.1.self_attn.k_proj",
                                      "model.layers.1.self_attn.v_proj"}));
  EXPECT_EQ(choices.units[6].linears.size(), 2u);
  int64_t weights = 0;
  for (const std::string& path : decoder_linears(config))
    weights += linear_shape(config, path).count();
  EXPECT_EQ(choices.weights, weights);
  EXPECT_EQ(choices.budget, weights * 5);
  for (const auto& [bits, plan] : choices.plans)
    for (const auto& [path, linear] : plan.linears) EXPECT_EQ(linear.weight->bits, bits) << path;
}

TEST(AutoBits, OverridesAndFallbacksAreDecided) {
  recipe::QuantizeOptions quantize = automatic("ct_w4a16_g128", 6);
  quantize.overrides = {{"k_proj", 3}, {"layers.0.mlp.down_proj", {}}, {"o_proj", 8}};
  BitChoices choices = bit_choices(quantize, config_of(256, 512));
  ASSERT_EQ(choices.units.size(), 5u);
  EXPECT_EQ(choices.units[0].linears,
            (std::vector<std::string>{"model.layers.0.self_attn.q_proj",
                                      "model.layers.0.self_attn.v_proj"}));
  for (const auto& [bits, plan] : choices.plans) {
    EXPECT_EQ(plan.linears.at("model.layers.1.self_attn.k_proj").weight->bits, 3);
    EXPECT_EQ(plan.linears.at("model.layers.1.self_attn.o_proj").weight->bits, 8);
    EXPECT_FALSE(plan.linears.contains("model.layers.0.mlp.down_proj"));
  }
  // w4a8 puts rows that 32 does not divide on int8, whatever the candidate.
  choices = bit_choices(automatic("w4a8", 7), config_of(128, 172));
  EXPECT_EQ(choices.units.size(), 6u);
  quantize.overrides = {{"*", 4}};
  EXPECT_NE(test::refusal([&] {
              bit_choices(quantize, config_of(256, 512));
            }).find("quantize.auto_bits.budget: no matrix has a choice"),
            std::string::npos);
}

TEST(AutoBits, ABudgetBelowTheNarrowestIsRefused) {
  EXPECT_NE(test::refusal([] { bit_choices(automatic("ct_w4a16_g128", 4.1), config_of(256, 512)); })
                .find("quantize.auto_bits.budget: 4.1 bits a weight, but 4 bits for each take "
                      "4.125 with their scales; raise it"),
            std::string::npos);
  EXPECT_EQ(bit_choices(automatic("ct_w4a16_g128", 4.125), config_of(256, 512)).units.size(), 8u);
}

TEST(AutoBits, WidthsOfAnotherRecipeAreRefused) {
  const recipe::QuantizeOptions quantize = automatic("ct_w4a16_g128", 5);
  const ModelConfig config = config_of(256, 512);
  const BitChoices choices = bit_choices(quantize, config);
  QuantPlan plan = make_quant_setup(quantize, config).plan;
  BitWidths widths;
  for (const std::string& path : decoder_linears(config)) widths[path] = 4;
  widths["model.layers.1.self_attn.o_proj"] = 8;
  set_widths(choices, widths, "step-3", plan);
  EXPECT_EQ(mixed_widths_text(plan), "13 weights of 4 bits, 1 of 8");
  widths["model.layers.1.self_attn.o_proj"] = 3;
  EXPECT_NE(test::refusal([&] {
              set_widths(choices, widths, "step-3", plan);
            }).find("step-3: its bits of model.layers.1.self_attn.o_proj are none of"),
            std::string::npos);
  widths.erase("model.layers.1.self_attn.o_proj");
  EXPECT_NE(test::refusal([&] {
              set_widths(choices, widths, "step-3", plan);
            }).find("step-3: its bits of model.layers.1.self_attn.o_proj are none of"),
            std::string::npos);
  widths["model.layers.1.self_attn.o_proj"] = 4;
  widths["model.layers.2.self_attn.o_proj"] = 4;
  EXPECT_NE(test::refusal([&] {
              set_widths(choices, widths, "step-3", plan);
            }).find("step-3: bits were chosen for 15 matrices, this recipe leaves 14 open"),
            std::string::npos);
}

// Results of tasks are kept by it: as many matrices of each width are not yet the same model.
TEST(AutoBits, PlansOfOtherChoicesAreTold) {
  const recipe::QuantizeOptions quantize = automatic("ct_w4a16_g128", 5);
  const ModelConfig config = config_of(256, 512);
  const BitChoices choices = bit_choices(quantize, config);
  QuantPlan first = choices.plans.at(4), second = first, uniform = first;
  first.linears.at("model.layers.0.self_attn.o_proj").weight->bits = 8;
  second.linears.at("model.layers.1.self_attn.o_proj").weight->bits = 8;
  EXPECT_EQ(quantization_json(first), quantization_json(second));
  EXPECT_NE(plan_identity(first), plan_identity(second));
  EXPECT_EQ(plan_identity(uniform), quantization_json(uniform).dump() + " null");
}

// Of all choices within the budget, by the very numbers that were measured.
TEST(AutoBits, ChoosesTheLeastHarmWithinTheBudget) {
  test::TinyModel tiny("tests/golden/llama");
  recipe::QuantizeOptions quantize = automatic("ct_w8a8", 6, {8, 3});
  const BitChoices choices = bit_choices(quantize, tiny.config);
  const ChosenBits chosen = choose_bits(quantize.auto_bits, choices, tiny.measured(),
                                        tiny.batches(1, 2, 32), [] { return false; });
  const nlohmann::json& units = chosen.record.at("units");
  ASSERT_EQ(units.size(), choices.units.size());
  QuantPlan plan = choices.plans.at(3);
  set_widths(choices, chosen.widths, "", plan);
  const auto bits_of = [&](const WidthUnit& unit, int bits) {
    int64_t size = 0;
    for (const std::string& path : unit.linears)
      size += stored_bits(linear_shape(tiny.config, path),
                          *choices.plans.at(bits).linears.at(path).weight);
    return size;
  };
  double best = INFINITY, taken = 0.0;
  for (size_t all = 0; all < size_t{1} << units.size(); ++all) {
    double kl = 0.0;
    int64_t size = 0;
    for (size_t i = 0; i < units.size(); ++i) {
      const int bits = (all >> i) & 1 ? 8 : 3;
      kl += units[i].at("kl").at(std::to_string(bits)).get<double>();
      size += bits_of(choices.units[i], bits);
    }
    if (size <= choices.budget) best = std::min(best, kl);
  }
  int64_t size = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    const int bits = units[i].at("bits");
    taken += units[i].at("kl").at(std::to_string(bits)).get<double>();
    size += bits_of(choices.units[i], bits);
    for (const std::string& path : choices.units[i].linears) {
      EXPECT_EQ(chosen.widths.at(path), bits);
      EXPECT_EQ(plan.linears.at(path).weight->bits, bits);
      EXPECT_TRUE(plan.linears.at(path).activation);
    }
  }
  EXPECT_NEAR(taken, best, 1e-12);
  EXPECT_LE(size, choices.budget);
  EXPECT_NEAR(chosen.record.at("predicted_kl"), taken, 1e-12);
  EXPECT_DOUBLE_EQ(chosen.record.at("bits"), double(size) / double(choices.weights));
  // Together they do not do what each does alone, but less than all at the narrowest width.
  EXPECT_LT(chosen.record.at("kl"), chosen.record.at("uniform").at("3").at("kl"));
  EXPECT_GT(chosen.record.at("kl"), chosen.record.at("uniform").at("8").at("kl"));
}

}  // namespace
}  // namespace qat
