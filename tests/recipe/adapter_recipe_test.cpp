// The adapter section: PEFT's spellings, defaults, and combinations that cannot be.
#include <gtest/gtest.h>

#include "engine/core/error.h"
#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

const std::string kSmall = "model: m\nout: o\ndata: {train: [t.txt]}\ntrain: {steps: 10}\n";

Recipe parsed(const std::string& more) {
  return parse_recipe(kSmall + more, "r.yaml");
}

std::string refusal(const std::string& more) {
  try {
    parsed(more);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    return error.what();
  }
  return "accepted";
}

TEST(AdapterRecipe, ReadsWhatPeftUsersType) {
  EXPECT_FALSE(parsed("").adapter.any());
  const AdapterOptions adapter =
      parsed("adapter: {kind: lora, r: 64, alpha: 16, base: nf4}\n").adapter;
  EXPECT_EQ(adapter.rank, 64);
  EXPECT_EQ(adapter.alpha, 16.0);
  EXPECT_TRUE(adapter.double_quant);
  EXPECT_EQ(adapter.target_modules.size(), 7u);
  EXPECT_EQ(parsed("adapter: dora\n").adapter.kind, AdapterChoice::dora);
  EXPECT_EQ(parsed("adapter: lora\n").adapter.base, BaseChoice::bf16);
  EXPECT_EQ(parsed("adapter: lora\ndtype: fp32\n").adapter.base, BaseChoice::none);
}

TEST(AdapterRecipe, ReadsBackFromItsEcho) {
  for (const char* more : {"adapter: lora\n", "adapter: {kind: dora, r: 4, base: int8}\n",
                           "adapter: {kind: lora, from: some/dir, base: fp4}\n", ""}) {
    const Recipe recipe = parsed(more);
    const std::string yaml = to_yaml(recipe);
    EXPECT_EQ(to_yaml(parse_recipe(yaml, "echo.yaml")), yaml);
    EXPECT_EQ(recipe_hash(parse_recipe(yaml, "echo.yaml")), recipe_hash(recipe));
  }
}

struct Bad {
  const char *more, *start, *part;
};

TEST(AdapterRecipe, RefusesWhatCannotBe) {
  for (const Bad& bad : {
           Bad{"adapter: {kind: lora, alpha: 0}\n", "r.yaml:5: adapter.alpha", "above 0"},
           Bad{"adapter: {kind: lora, alpha: -4}\n", "r.yaml:5: adapter.alpha", "above 0"},
           Bad{"adapter: {kind: lora, r: 0}\n", "r.yaml:5: adapter.rank", "from 1"},
           Bad{"adapter: {kind: lora, r: 4, rank: 8}\n", "r.yaml:5: adapter.rank", "got both"},
           Bad{"adapter: {kind: lora, dropout: 1.5}\n", "r.yaml:5: adapter.dropout", "0.95"},
           Bad{"adapter: {kind: lora, target_modules: []}\n", "r.yaml:5: adapter.target_modules",
               "all-linear"},
           Bad{"adapter: {kind: lora, lora_alpha: 8}\n", "r.yaml:5: adapter.lora_alpha",
               "adapter.alpha"},
           Bad{"adapter: {kind: lora, base: nf3}\n", "r.yaml:5: adapter.base", "nf4"},
           Bad{"adapter: {rank: 8}\n", "r.yaml:5: adapter.rank", "adapter.kind"},
           Bad{"adapter: {kind: lora, base: int8, double_quant: true}\n",
               "r.yaml:5: adapter.double_quant", "nf4 or fp4"},
           Bad{"adapter: {kind: lora, from: d, rank: 8}\n", "r.yaml:5: adapter.rank",
               "adapter.from is none"},
           Bad{"quantize: w4a8\nadapter: {kind: lora, dropout: 0.1}\n", "r.yaml:6: adapter.dropout",
               "merged"},
           Bad{"quantize: {preset: w8a8, smooth: 0.5}\nadapter: lora\n",
               "r.yaml:5: quantize.smooth.alpha", "frozen base"},
           Bad{"export: [peft]\n", "r.yaml:5: export", "adapter.kind"},
           Bad{"adapter: lora\nexport: [compressed-tensors]\n", "r.yaml:6: export", "quantize"},
       }) {
    const std::string line = refusal(bad.more);
    EXPECT_TRUE(line.starts_with(bad.start)) << line;
    EXPECT_NE(line.find(bad.part), std::string::npos) << line;
  }
  const std::string master = kSmall.substr(0, kSmall.find("train: {steps")) +
                             "train: {steps: 10, optimizer: {master: bf16_stochastic}}\n"
                             "adapter: lora\n";
  try {
    parse_recipe(master, "r.yaml");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("adapter.dtype"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace qat::recipe
