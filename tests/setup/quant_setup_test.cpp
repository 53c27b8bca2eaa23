// From a recipe's grids to each matrix: what super-blocks divide, and what takes their place.
#include "recipes/run/quant_setup.h"

#include <gtest/gtest.h>

#include "models/decoder.h"
#include "tests/io/files.h"
#include "tests/setup/options.h"

namespace qat {
namespace {

using test::config_of, test::preset;

QuantSpec blocks(int bits, Range range, ScaleRule rule) {
  return {bits, Per::group, 32, range, rule, ScaleType::f16, Division::stored};
}
const QuantSpec kQ8_0 = blocks(8, Range::strict, ScaleRule::amax);
const QuantSpec kQ5_0 = blocks(5, Range::full, ScaleRule::signed_max);

QuantSpec activation(int group) {
  return {8,
          Per::group,
          group,
          Range::strict,
          ScaleRule::amax,
          group == 32 ? ScaleType::f16 : ScaleType::f32,
          Division::exact};
}

TEST(QuantSetup, SuperBlocksWhereTheyDivideEveryRow) {
  const QuantSetup setup = make_quant_setup(preset("gguf_q4_k"), config_of(256, 512));
  EXPECT_TRUE(setup.fallbacks.empty());
  EXPECT_EQ(planned_linears(setup.plan), 14);
  for (const auto& [path, linear] : setup.plan.linears) {
    const bool table = path == kEmbeddingPath || path == kHeadPath;
    EXPECT_EQ(linear.weight, table ? q6_k_grid() : q4_k_grid()) << path;
    if (path != kEmbeddingPath) {
      EXPECT_EQ(linear.activation, activation(256)) << path;
    }
  }
}

TEST(QuantSetup, OverridesGiveSingleMatricesTheirBits) {
  recipe::QuantizeOptions quantize = preset("ct_w4a16_g128");
  quantize.overrides = {
      {"down_proj", 8}, {"model.layers.0.*", 3}, {"layers.0.self_attn.q_proj", {}}};
  const QuantPlan plan = make_quant_setup(quantize, config_of(256, 512)).plan;
  const QuantPlan uniform = make_quant_setup(preset("ct_w4a16_g128"), config_of(256, 512)).plan;
  EXPECT_EQ(planned_linears(plan), 13);
  for (const auto& [path, linear] : plan.linears) {
    QuantSpec expected = *uniform.linears.at(path).weight;
    if (path.ends_with("down_proj")) expected.bits = 8;
    if (layer_of(path) == 0) expected.bits = 3;  // the later one wins
    EXPECT_EQ(*linear.weight, expected) << path;
  }
  EXPECT_FALSE(plan.linears.contains("model.layers.0.self_attn.q_proj"));
  quantize.overrides = {{"layers.2", 8}};
  EXPECT_NE(test::refusal([&] {
              make_quant_setup(quantize, config_of(256, 512));
            }).find("quantize.overrides: 'layers.2' matches no matrix that is quantized"),
            std::string::npos);
  quantize.overrides = {{"q_proj", 8}};
  quantize.exclude = {"q_proj"};
  EXPECT_NE(test::refusal([&] {
              make_quant_setup(quantize, config_of(256, 512));
            }).find("matches no matrix that is quantized"),
            std::string::npos);
}

// As llama.cpp's own quantizer: Q4_K to Q5_0, Q6_K to Q8_0, F16 where 32 does not divide a row; the
// inputs of blocks of 32 are Q8_0.
TEST(QuantSetup, RowsThatSuperBlocksDoNotDivideFallBackAsInLlamaCpp) {
  const QuantSetup q4 = make_quant_setup(preset("gguf_q4_k"), config_of(256, 96));
  const LinearQuant down = q4.plan.linears.at("model.layers.0.mlp.down_proj");
  EXPECT_EQ(down.weight, kQ5_0);
  EXPECT_EQ(down.activation, activation(32));
  EXPECT_EQ(q4.plan.linears.at("model.layers.0.mlp.up_proj").weight, q4_k_grid());
  ASSERT_EQ(q4.fallbacks.size(), 1u);
  EXPECT_EQ(q4.fallbacks[0],
            "model.layers.0.mlp.down_proj: 96 columns do not divide into super-blocks of 256; Q5_0 "
            "instead (and so for 1 other matrices)");

  const QuantSetup q6 = make_quant_setup(preset("gguf_q6_k"), config_of(128, 256));
  EXPECT_EQ(q6.plan.linears.at("model.layers.1.mlp.up_proj").weight, kQ8_0);
  EXPECT_EQ(q6.plan.linears.at("model.layers.1.mlp.down_proj").weight, q6_k_grid());
  EXPECT_EQ(q6.plan.linears.at(kEmbeddingPath).weight, kQ8_0);
  EXPECT_EQ(q6.plan.linears.at(kHeadPath).weight, kQ8_0);
  EXPECT_EQ(q6.plan.linears.at(kHeadPath).activation, activation(32));
  test::expect_mentions(q6.fallbacks.back(), {"embeddings and head", "128", "Q8_0 instead"});

  const QuantSetup none = make_quant_setup(preset("gguf_q4_k"), config_of(256, 100));
  EXPECT_FALSE(none.plan.linears.contains("model.layers.0.mlp.down_proj"));
  test::expect_mentions(none.fallbacks.at(0), {"mlp.down_proj", "100", "F16 in a GGUF file"});
}

TEST(QuantSetup, AGroupWrittenByHandIsRefusedWhereItsSuperBlocksDoNotFit) {
  recipe::QuantizeOptions quantize = preset("gguf_q4_k");
  quantize.weights.group_by_hand = true;
  test::expect_mentions(
      test::refusal([&] { make_quant_setup(quantize, config_of(256, 96)); }),
      {"quantize.weights.group", "256 does not divide the 96 columns", "mlp.down_proj"});
}

TEST(QuantSetup, TheHeadsInputGoesByItsGrid) {
  recipe::QuantizeOptions quantize = preset("gguf_q4_0");
  quantize.embeddings = quantize.head = recipe::TableGrid::q6_k;
  ModelConfig config = config_of(256, 256);
  config.tied_head = true;
  const QuantSetup setup = make_quant_setup(quantize, config);
  EXPECT_EQ(setup.plan.linears.at(kEmbeddingPath).weight, q6_k_grid());
  EXPECT_FALSE(setup.plan.linears.at(kHeadPath).weight) << "tied: the table's grid is the head's";
  EXPECT_EQ(setup.plan.linears.at(kHeadPath).activation, activation(256));
  EXPECT_EQ(setup.plan.linears.at("model.layers.0.mlp.up_proj").activation, activation(32));
}

TEST(QuantSetup, Float8IsPerChannelAndPerToken) {
  const QuantSetup setup = make_quant_setup(preset("ct_fp8"), config_of(100, 60));
  EXPECT_TRUE(setup.fallbacks.empty());
  EXPECT_EQ(planned_linears(setup.plan), 14);
  for (const auto& [path, linear] : setup.plan.linears) {
    EXPECT_EQ(linear.weight->form, Form::e4m3);
    EXPECT_EQ(linear.weight->per, Per::row);
    EXPECT_EQ(linear.activation->form, Form::e4m3);
    EXPECT_EQ(linear.activation->per, Per::row);
    EXPECT_FALSE(linear.static_activation);
  }
}

}  // namespace
}  // namespace qat
