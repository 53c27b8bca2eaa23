// What good recipes give: values, defaults, presets, overrides, and the way back to YAML.
#include "recipes/run/recipe/recipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "engine/core/error.h"

namespace qat::recipe {
namespace {

const std::string kSmall = "model: m\nout: o\ndata: {train: [t.txt]}\ntrain: {steps: 10}\n";

Recipe parsed(const std::string& more, const std::vector<std::string>& set = {}) {
  std::vector<RecipeOverride> options;
  for (const auto& argument : set) options.push_back(set_option(argument));
  return parse_recipe(kSmall + more, "r.yaml", options);
}

std::string message(const std::string& text, const std::vector<std::string>& set = {}) {
  try {
    std::vector<RecipeOverride> options;
    for (const auto& argument : set) options.push_back(set_option(argument));
    parse_recipe(text, "r.yaml", options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    return error.what();
  }
  return "accepted";
}

TEST(Recipe, DefaultsAreFilledIn) {
  const Recipe recipe = parsed("");
  EXPECT_EQ(recipe.model.from.path, "m");
  EXPECT_FALSE(recipe.model.scratch());
  EXPECT_EQ(recipe.train.steps, 10);
  EXPECT_EQ(recipe.train.batch, 8);
  EXPECT_EQ(recipe.dtype, DType::bf16);
  EXPECT_EQ(recipe.resume.word, ResumeKind::automatic);
  EXPECT_FALSE(recipe.quantize.any());
  EXPECT_EQ(recipe.distill.teacher.word, TeacherKind::none);
  EXPECT_EQ(recipe.distill.kl, 0.0);
  EXPECT_EQ(recipe.distill.cross_entropy, 1.0);
  EXPECT_TRUE(recipe.evaluate.metrics.empty());
  EXPECT_EQ(recipe.evaluate.context, 512);
}

TEST(Recipe, PresetsGiveTheirGrids) {
  const auto int8 = parsed("quantize: w8a8\n").quantize;
  const QuantSpec row8{8, Per::row, 0, Range::strict, ScaleRule::amax, ScaleType::f32};
  EXPECT_EQ(int8.weights.spec(), row8);
  EXPECT_EQ(int8.activations.spec(), row8);
  EXPECT_TRUE(int8.activations.dynamic);

  const auto int4 = parsed("quantize: {preset: w4a8}\n").quantize;
  EXPECT_EQ(int4.weights.spec(),
            (QuantSpec{4, Per::group, 32, Range::full, ScaleRule::mse, ScaleType::portable}));
  EXPECT_EQ(int4.activations.spec(), row8);
  EXPECT_FALSE(int4.weights.group_by_hand);
}

TEST(Recipe, GgufPresetsAreWhatLlamaCppMultiplies) {
  const QuantSpec activations{
      8, Per::group, 32, Range::strict, ScaleRule::amax, ScaleType::f16, Division::exact};
  const auto q8 = parsed("quantize: gguf_q8_0\nexport: [gguf, hf]\n").quantize;
  EXPECT_EQ(q8.weights.spec(),
            (QuantSpec{8, Per::group, 32, Range::strict, ScaleRule::amax, ScaleType::f16}));
  EXPECT_EQ(q8.activations.spec(), activations);
  EXPECT_EQ(q8.embeddings, TableGrid::q8_0);
  EXPECT_EQ(q8.head, TableGrid::q8_0);
  const auto q4 = parsed("quantize: gguf_q4_0\nexport: gguf\n").quantize;
  EXPECT_EQ(q4.weights.spec(),
            (QuantSpec{4, Per::group, 32, Range::full, ScaleRule::signed_max, ScaleType::f16}));
  EXPECT_EQ(q4.activations.spec(), activations);
  const auto q4_1 = parsed("quantize: {preset: gguf_q4_1, head: none}\nexport: gguf\n").quantize;
  EXPECT_EQ(q4_1.weights.spec(),
            (QuantSpec{4, Per::group, 32, Range::minimum, ScaleRule::min_max, ScaleType::f16}));
  EXPECT_EQ(q4_1.head, TableGrid::none);
  EXPECT_EQ(q4_1.embeddings, TableGrid::q8_0);
  // One training for all three containers.
  for (const char* preset : {"portable_w4", "portable_w8"}) {
    const auto portable =
        parsed(std::string("quantize: ") + preset + "\nexport: [gguf, compressed-tensors]\n");
    EXPECT_EQ(portable.quantize.weights.spec().scale_type, ScaleType::portable);
    EXPECT_TRUE(portable.quantize.weights.spec().symmetric());
    EXPECT_FALSE(portable.quantize.activations.bits);
    EXPECT_TRUE(portable.warnings.empty());
  }
}

TEST(Recipe, KTypesAreGridsOfTheirOwn) {
  const QuantSpec activations{
      8, Per::group, 256, Range::strict, ScaleRule::amax, ScaleType::f32, Division::exact};
  const Recipe q4 = parsed("quantize: gguf_q4_k\nexport: [gguf, hf]\n");
  EXPECT_EQ(q4.quantize.weights.spec(), q4_k_grid());
  EXPECT_EQ(q4.quantize.activations.spec(), activations);
  EXPECT_EQ(q4.quantize.embeddings, TableGrid::q6_k);
  EXPECT_EQ(q4.quantize.head, TableGrid::q6_k);
  EXPECT_TRUE(q4.warnings.empty());
  const Recipe q6 = parsed("quantize: gguf_q6_k\nexport: gguf\n");
  EXPECT_EQ(q6.quantize.weights.spec(), q6_k_grid());
  EXPECT_EQ(q6.quantize.activations.spec(), activations);
  EXPECT_TRUE(q6.warnings.empty());
  // The form alone decides the grid, whatever the preset was.
  for (const char* start : {"none", "w8a8", "gguf_q4_0"}) {
    const Recipe by_hand = parsed(std::string("quantize: {preset: ") + start +
                                  ", weights: {bits: 4, form: q4_k}, activations: none}\n");
    EXPECT_EQ(by_hand.quantize.weights.spec(), q4_k_grid()) << start;
    EXPECT_EQ(by_hand.quantize.weights.fallback, WeightQuant::Fallback::ggml);
  }
  EXPECT_TRUE(
      scheme_text(q4.quantize).starts_with("gguf_q4_k: weights Q4_K: int4 in super-blocks"));
}

TEST(Recipe, Float8IsWhatVllmMultiplies) {
  const Recipe fp8 = parsed("quantize: ct_fp8\nexport: [compressed-tensors, hf]\n");
  EXPECT_EQ(fp8.quantize.weights.spec(),
            (QuantSpec{8, Per::row, 0, Range::strict, ScaleRule::amax, ScaleType::bf16,
                       Division::stored, Form::e4m3}));
  EXPECT_EQ(fp8.quantize.activations.spec(),
            (QuantSpec{8, Per::row, 0, Range::strict, ScaleRule::amax, ScaleType::f32,
                       Division::stored, Form::e4m3}));
  EXPECT_TRUE(fp8.warnings.empty());
  EXPECT_EQ(
      parsed("quantize: {preset: w8a8, weights: {form: e4m3}}\n").quantize.weights.spec().form,
      Form::e4m3);
}

TEST(Recipe, GroupsOfActivations) {
  const auto groups = parsed("quantize: {preset: w8a8, activations: {group: 64}}\n").quantize;
  EXPECT_EQ(groups.activations.spec().per, Per::group);
  EXPECT_EQ(groups.activations.spec().group, 64);
  const auto token = parsed("quantize: {preset: gguf_q4_0, activations: {per: token}}\n").quantize;
  EXPECT_EQ(token.activations.spec().per, Per::row);
  EXPECT_EQ(token.activations.group, 0);
}

TEST(Recipe, HandOverridesThePresetFieldByField) {
  const auto quantize =
      parsed("quantize: {preset: w4a8, weights: {group: 32, bits: 3}}\n").quantize;
  EXPECT_EQ(quantize.weights.spec(),
            (QuantSpec{3, Per::group, 32, Range::full, ScaleRule::mse, ScaleType::portable}));
  EXPECT_TRUE(quantize.weights.group_by_hand);
  const auto channel = parsed("quantize: {preset: w4a8, weights: {per: channel}}\n").quantize;
  EXPECT_EQ(channel.weights.spec().per, Per::row);
  EXPECT_EQ(channel.weights.group, 0);
  const auto zero_point = parsed("quantize: {preset: w8a8, activations: {symmetric: false}}\n");
  EXPECT_EQ(zero_point.quantize.activations.spec().range, Range::asymmetric);
  EXPECT_EQ(zero_point.quantize.activations.spec().rule, ScaleRule::min_max);
  EXPECT_FALSE(parsed("quantize: {preset: w8a8, activations: none}\n").quantize.activations.bits);
}

TEST(Recipe, TheLogNamesWhatThePresetBecame) {
  const auto text = [](const std::string& more) { return scheme_text(parsed(more).quantize); };
  EXPECT_EQ(text("quantize: w8a8\n"),
            "w8a8: weights int8, codes -127 to 127, a scale per output channel (amax, f32); "
            "activations int8, codes -127 to 127, a scale per token (amax, f32)");
  EXPECT_TRUE(text("quantize: {preset: w8a8, weights: {bits: 4, scale: mse}}\n")
                  .starts_with("w8a8 with weights.bits 4, weights.scale mse: weights int4, "));
  EXPECT_TRUE(text("quantize: {preset: w8a8, weights: {bits: 8}}\n").starts_with("w8a8: "));
  EXPECT_TRUE(text("quantize: {preset: w4a8, activations: none}\n")
                  .starts_with("w4a8 with activations.bits none: weights int4"));
  EXPECT_TRUE(text("quantize: {weights: {bits: 3, group: 64}}\n")
                  .starts_with("no preset with weights.bits 3, weights.per group, "));
  EXPECT_NE(text("quantize: {preset: w8a8, activations: {dynamic: false}}\n").find("calibrated"),
            std::string::npos);
  EXPECT_EQ(text(""), "none");
}

TEST(Recipe, TheLogNamesWhatAnAliasStandsFor) {
  const auto text = [](const std::string& more) { return alias_text(parsed(more).quantize); };
  EXPECT_EQ(
      text("quantize: w8a8\n"),
      "w8a8 stands for ct_w8a8 (compressed-tensors int-quantized) with weights.scale_type f32");
  EXPECT_EQ(text("quantize: w4a8\n"),
            "w4a8 stands for ct_w4a8 (compressed-tensors int-quantized) with weights.group 32");
  // What the recipe changes is said by the scheme, not again here.
  EXPECT_EQ(text("quantize: {preset: w8a8, weights: {bits: 4}}\n"), text("quantize: w8a8\n"));
  EXPECT_EQ(text("quantize: ct_w8a8\n"), "");
  EXPECT_EQ(text(""), "");
}

TEST(Recipe, SizesCountInPowersOfTen) {
  EXPECT_EQ(bytes_of_size("5GB"), 5'000'000'000u);
  EXPECT_EQ(bytes_of_size("1.5MB"), 1'500'000u);
  EXPECT_EQ(bytes_of_size("300KB"), 300'000u);
  for (const char* wrong : {"", "5", "GB", "-1GB", "0KB", "5gb", "5 GB", "1e3GB", "nanGB", "5GBs"})
    EXPECT_FALSE(bytes_of_size(wrong)) << wrong;
  const Recipe recipe = parsed("max_shard_size: 500MB\nsplit_max_size: 2GB\n");
  EXPECT_EQ(recipe.max_shard_size, "500MB");
  EXPECT_EQ(recipe.split_max_size, "2GB");
  EXPECT_EQ(parsed("").split_max_size, "none");
}

TEST(Recipe, ShortFormsStandForTheirKey) {
  const Recipe recipe = parsed(
      "distill: self\nquantize: {preset: w8a8, smooth: 0.8, calibrate: 16}\n"
      "checkpoint: 7\ngenerate: Hello\nexport: hf\n");
  EXPECT_EQ(recipe.distill.teacher.word, TeacherKind::self);
  EXPECT_EQ(recipe.distill.kl, 1.0);
  EXPECT_EQ(recipe.distill.cross_entropy, 0.0);
  EXPECT_EQ(recipe.quantize.smooth.alpha, (SmoothAlpha{SmoothMode::fixed, 0.8}));
  EXPECT_EQ(recipe.quantize.calibrate.samples, 16);
  EXPECT_EQ(recipe.checkpoint.every, 7);
  EXPECT_EQ(recipe.generate.prompts, std::vector<std::string>{"Hello"});
  EXPECT_EQ(recipe.exports, std::vector<ExportFormat>{ExportFormat::hf});
}

TEST(Recipe, OptionsWinOverTheFile) {
  const Recipe recipe = parsed("distill: {teacher: self, kl: 2.0}\n",
                               {"train.steps=3", "train={batch: 4}", "distill=none"});
  EXPECT_EQ(recipe.train.steps, 3);
  EXPECT_EQ(recipe.train.batch, 4);
  EXPECT_EQ(recipe.distill.kl, 0.0) << "the file's kl belonged to a teacher that is gone";
  EXPECT_EQ(message(kSmall, {"train.steps=fast"}),
            "--set train.steps: expected a whole number from 0 to 1000000000, got "
            "fast; it means: Optimizer steps; 0 only calibrates, quantizes and exports.");
}

bool warns(const Recipe& recipe, const std::string& start) {
  return std::any_of(recipe.warnings.begin(), recipe.warnings.end(),
                     [&](const auto& line) { return line.starts_with(start); });
}

TEST(Recipe, AnOptionThatSwitchesOffDropsWhatDependedOnIt) {
  const Recipe recipe =
      parsed("quantize: {preset: w4a8, weights: {group: 64}, smooth: 0.5}\n", {"quantize=none"});
  EXPECT_FALSE(recipe.quantize.any());
  EXPECT_FALSE(recipe.quantize.weights.group_by_hand);
  EXPECT_TRUE(warns(recipe, "r.yaml:5: quantize.weights.group: has no effect any more"));
  EXPECT_TRUE(warns(recipe, "quantize.smooth: has no effect"));
  const Recipe still = parsed("quantize: {preset: w4a8, rotation: hadamard}\n", {"quantize=none"});
  EXPECT_FALSE(still.quantize.rotation.any());
  EXPECT_TRUE(warns(still, "r.yaml:5: quantize.rotation.kind: has no effect any more"));
  const Recipe plain =
      parsed("quantize: w8a8\nexport: [hf, compressed-tensors]\n", {"quantize=none"});
  EXPECT_EQ(plain.exports, std::vector<ExportFormat>{ExportFormat::hf});
}

TEST(Recipe, WarnsOfWhatIsLegalButOdd) {
  EXPECT_TRUE(warns(parsed("quantize: w8a8\n", {"train.warmup_bf16=10"}), "train.warmup_bf16: 10"));
  EXPECT_TRUE(warns(parsed("", {"train.schedule.warmup=11"}), "train.schedule.warmup: 11 of 10"));
  EXPECT_TRUE(warns(parsed("quantize: {weights: {bits: 5}}\n"), "quantize.weights.bits: "));
  EXPECT_TRUE(warns(
      parsed("quantize: {preset: w4a8, weights: {rounding: stochastic}}\n", {"train.steps=0"}),
      "quantize.weights.rounding: stochastic has no effect"));
  EXPECT_TRUE(warns(parsed("quantize: {preset: w4a8, weights: {group: 48}}\n"),
                    "quantize.weights.group: "));
  EXPECT_TRUE(parsed("quantize: w4a8\n").warnings.empty());
}

TEST(Recipe, WarnsOfWhatNoKernelRuns) {
  EXPECT_TRUE(warns(parsed("quantize: w4a8\nexport: [gptq]\n"), "export: gptq: stores weights"));
  EXPECT_TRUE(warns(parsed("quantize: awq_w4_g128\nexport: [gptq]\n"),
                    "export: gptq: zero points are written as gptq_v2"));
  EXPECT_TRUE(warns(parsed("quantize: {preset: gptq_w4_g128, weights: {group: 256}}\n"
                           "export: [compressed-tensors, gptq]\n"),
                    "export: gptq: no known kernel has groups of 256"));
  for (const char* fine :
       {"quantize: gptq_w4_g128\nexport: [gptq]\n", "quantize: gptq_w8\nexport: [gptq]\n",
        "quantize: awq_w4_g128\nexport: [awq]\n",
        "quantize: ct_w4a16_g128\nexport: [compressed-tensors, gptq]\n",
        "quantize: ct_w8a8\nexport: [compressed-tensors]\n"})
    EXPECT_TRUE(parsed(fine).warnings.empty()) << fine;
}

TEST(Recipe, StaticActivationsSaturateAsTheyAreServed) {
  const Recipe fixed = parsed("quantize: {preset: w8a8, activations: {dynamic: false}}\n");
  EXPECT_EQ(fixed.quantize.activations.range, SymmetricRange::full);
  EXPECT_EQ(fixed.quantize.activations.per, ActivationPer::tensor);
  const Recipe by_hand =
      parsed("quantize: {preset: w8a8, activations: {dynamic: false, range: strict}}\n");
  EXPECT_EQ(by_hand.quantize.activations.range, SymmetricRange::strict);
}

TEST(Recipe, EveryShippedRecipeReadsAndReadsBack) {
  setenv("QAT_TEST_DATA", "/data", 0);
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    const Recipe recipe = load_recipe(entry.path());
    EXPECT_TRUE(recipe.warnings.empty()) << entry.path() << ": " << recipe.warnings.front();
    const Recipe again = parse_recipe(to_yaml(recipe), "echo");
    EXPECT_EQ(to_yaml(again), to_yaml(recipe)) << entry.path();
    EXPECT_EQ(recipe_hash(again), recipe_hash(recipe));
    EXPECT_EQ(again.quantize.weights.group_by_hand, recipe.quantize.weights.group_by_hand);
  }
  EXPECT_GE(count, 4);
}

// llama.cpp's types give every field; bits alone stand for a type.
TEST(KvCache, TypesFillTheirFields) {
  const auto kv_of = [](const std::string& kv) {
    const Recipe recipe = parse_recipe(
        "model: m\nout: o\ntrain: {steps: 0}\nquantize: {kv_cache: " + kv + "}\n", "r.yaml");
    const Recipe again = parse_recipe(to_yaml(recipe), "again");
    EXPECT_EQ(recipe_hash(again), recipe_hash(recipe));
    EXPECT_EQ(again.quantize.kv_cache.spec(64), recipe.quantize.kv_cache.spec(64));
    return recipe.quantize.kv_cache.spec(64);
  };
  const QuantSpec q8_0{
      .per = Per::group, .group = 32, .scale_type = ScaleType::f16, .division = Division::exact};
  EXPECT_EQ(kv_of("q8_0"), q8_0);
  QuantSpec q4_0 = q8_0;
  q4_0.bits = 4;
  q4_0.range = Range::full;
  q4_0.rule = ScaleRule::signed_max;
  EXPECT_EQ(kv_of("q4_0"), q4_0);
  EXPECT_EQ(kv_of("{bits: 8}"), kv_of("int8"));
  EXPECT_EQ(kv_of("{bits: 4}"), kv_of("int4"));
  EXPECT_EQ(kv_of("int8").group, 64) << "a head";
  EXPECT_EQ(kv_of("{bits: 8, per: token}").per, Per::row);
  EXPECT_EQ(kv_of("{type: int4, group: 16}").group, 16);
  const QuantSpec asymmetric = kv_of("{bits: 8, symmetric: off}");
  EXPECT_EQ(asymmetric.range, Range::asymmetric);
  EXPECT_EQ(asymmetric.rule, ScaleRule::min_max);
  EXPECT_EQ(kv_of("{type: int4, symmetric: on, range: full, scale: mse}").rule, ScaleRule::mse);
}

}  // namespace
}  // namespace qat::recipe
