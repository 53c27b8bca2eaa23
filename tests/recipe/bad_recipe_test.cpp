// Recipes that must be refused (faults E8 and A16): exit code 2, one line that begins with the
// place and the key and says what was expected.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/core/error.h"
#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

const std::string kGood = "model: m\nout: o\ndata: {train: [t.txt]}\ntrain: {steps: 10}\n";

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused) << error.what();
    const std::string line = error.what();
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    EXPECT_LT(line.size(), 1000u) << line;
    return line;
  }
  return "accepted";
}

std::string refusal_of(const std::string& text, const std::vector<std::string>& set = {}) {
  return refusal([&] {
    std::vector<RecipeOverride> options;
    for (const auto& argument : set) options.push_back(set_option(argument));
    parse_recipe(text, "r.yaml", options);
  });
}

/// `more` is added to a good recipe of four lines; the refusal begins with `start` and holds
/// `part`.
struct BadCase {
  const char *name, *more, *start, *part;
};
void PrintTo(const BadCase& bad, std::ostream* out) {
  *out << bad.name;
}

class BadRecipe : public testing::TestWithParam<BadCase> {};

TEST_P(BadRecipe, IsRefusedByPlaceAndKey) {
  const BadCase& bad = GetParam();
  const std::string line = refusal_of(kGood + bad.more);
  EXPECT_TRUE(line.starts_with(bad.start)) << line;
  EXPECT_NE(line.find(bad.part), std::string::npos) << line;
}

const BadCase kTargets[] = {
    {"scales", "quantize: w8a8\nexport: gguf\n", "r.yaml:6: export: ",
     "expected quantize.weights.scale_type f16 or portable beside gguf, got f32 of preset w8a8"},
    {"group", "quantize:\n  preset: gguf_q4_0\n  weights: {group: 48}\nexport: [hf, gguf]\n",
     "r.yaml:7: quantize.weights.group: ", "a multiple of 32 where export lists gguf, got 48"},
    {"zero_point", "quantize: {preset: gguf_q4_0, weights: {symmetric: false}}\nexport: gguf\n",
     "r.yaml:6: export: ", "expected quantize.weights.offset minimum beside gguf"},
    {"minimum_of_8_bits", "quantize: {preset: gguf_q4_1, weights: {bits: 8}}\nexport: gguf\n",
     "r.yaml:5: quantize.weights.bits: ", "expected 4 for codes that count from a minimum"},
    {"minimum_mse", "quantize: {preset: gguf_q4_1, weights: {scale: mse}}\n",
     "r.yaml:5: quantize.weights.scale: ", "min_max where quantize.weights.offset is minimum"},
    {"minimum_elsewhere", "quantize: {preset: gguf_q4_1}\nexport: [gguf, compressed-tensors]\n",
     "r.yaml:6: export: ", "quantize.weights.offset zero_point beside compressed-tensors"},
    {"negative_scales",
     "quantize: {preset: portable_w4, weights: {scale: signed_max}}\nexport: compressed-tensors\n",
     "r.yaml:5: quantize.weights.scale: ", "positive scales"},
    {"groups_of_inputs",
     "quantize: {preset: w8a8, activations: {group: 32}}\nexport: compressed-tensors\n",
     "r.yaml:6: export: ", "quantize.activations.per token or tensor beside"},
    {"table", "quantize: {preset: w8a8, embeddings: q8_0}\nexport: compressed-tensors\n",
     "r.yaml:5: quantize.embeddings: ", "expected none"},
    {"static_groups", "quantize: {preset: gguf_q8_0, activations: {per: group, dynamic: off}}\n",
     "r.yaml:5: quantize.activations.per: ", "tensor where quantize.activations.dynamic is off"},
    {"no_group", "quantize: {preset: w8a8, activations: {per: group}}\n",
     "r.yaml:5: quantize.activations.per: ", "quantize.activations.group beside group"},
    {"offset_of_symmetric", "quantize: {preset: w8a8, weights: {offset: minimum}}\n",
     "r.yaml:5: quantize.weights.offset: ", "symmetric is false"},
};
INSTANTIATE_TEST_SUITE_P(Targets, BadRecipe, testing::ValuesIn(kTargets),
                         [](const auto& info) { return std::string(info.param.name); });

const BadCase kTrainedScales[] = {
    {"lsq_with_adapter",
     "quantize: {preset: w4a8, weights: {rounding: lsq}}\nadapter: {kind: lora}\n",
     "r.yaml:5: quantize.weights.rounding: ", "expected nearest beside an adapter, got lsq"},
    {"lsq_of_minimum", "quantize: {preset: gguf_q4_1, weights: {rounding: lsq}}\n",
     "r.yaml:5: quantize.weights.rounding: ", "offset is minimum"},
    {"lsq_from_negative_scales", "quantize: {preset: gguf_q4_0, weights: {rounding: lsq}}\n",
     "r.yaml:5: quantize.weights.rounding: ", "set quantize.weights.scale: mse, or"},
    {"lsq_start_of_zero_points",
     "quantize: {preset: awq_w4_g128, weights: {rounding: lsq, scale_init: lsq}}\n",
     "r.yaml:5: quantize.weights.scale_init: ", "expected rule where"},
    {"scale_lr_of_nearest", "quantize: {preset: w4a8, weights: {scale_lr: 1e-3}}\n",
     "r.yaml:5: quantize.weights.scale_lr: ", "only where quantize.weights.rounding is lsq"},
    {"scale_init_of_nearest", "quantize: {preset: w4a8, weights: {scale_init: lsq}}\n",
     "r.yaml:5: quantize.weights.scale_init: ", "only where quantize.weights.rounding is lsq"},
    {"negative_scale_lr", "quantize: {preset: w4a8, weights: {rounding: lsq, scale_lr: -1}}\n",
     "r.yaml:5: quantize.weights.scale_lr: ", "from 0 to 1"},
    {"unknown_rounding", "quantize: {preset: w4a8, weights: {rounding: lsqplus}}\n",
     "r.yaml:5: quantize.weights.rounding: ", "lsq"},
};
INSTANTIATE_TEST_SUITE_P(TrainedScales, BadRecipe, testing::ValuesIn(kTrainedScales),
                         [](const auto& info) { return std::string(info.param.name); });

const BadCase kRotation[] = {
    {"rotation_alone", "quantize: {rotation: hadamard}\n",
     "r.yaml:5: quantize.rotation.kind: ", "none where nothing is quantized"},
    {"rotation_with_adapter",
     "quantize: {preset: w4a8, rotation: hadamard}\nadapter: {kind: lora}\n",
     "r.yaml:5: quantize.rotation.kind: ", "none beside an adapter"},
    {"rotation_online_exported",
     "quantize: {preset: w4a8, rotation: {kind: hadamard, online: true}}\nexport: [hf]\n",
     "r.yaml:5: quantize.rotation.online: ", "false where export lists hf, got true"},
    {"rotation_exported", "quantize: {preset: w4a8, rotation: hadamard}\nexport: gguf\n",
     "r.yaml: quantize.rotation.online: ", "set it to false, or remove the format"},
    {"rotation_smoothed", "quantize: {preset: w4a8, rotation: hadamard, smooth: 0.5}\n",
     "r.yaml: quantize.rotation.online: ", "false where quantize.smooth.alpha is set"},
    {"rotation_awq", "quantize: {preset: w4a8, rotation: hadamard, solver: awq}\n",
     "r.yaml: quantize.rotation.online: ", "false where quantize.solver.kind is awq"},
    {"online_of_none", "quantize: {preset: w4a8, rotation: {online: false}}\n",
     "r.yaml:5: quantize.rotation.online: ", "only where quantize.rotation.kind is not none"},
    {"unknown_rotation", "quantize: {preset: w4a8, rotation: cayley}\n",
     "r.yaml:5: quantize.rotation.kind: ", "hadamard"},
};
INSTANTIATE_TEST_SUITE_P(Rotation, BadRecipe, testing::ValuesIn(kRotation),
                         [](const auto& info) { return std::string(info.param.name); });

const BadCase kStretched[] = {
    {"stretched_activations", "quantize: {preset: w8a8, activations: {range: stretched}}\n",
     "r.yaml:5: quantize.activations.range: ", "leave out 0"},
    {"stretched_keys", "quantize: {kv_cache: {type: int8, range: stretched}}\n",
     "r.yaml:5: quantize.kv_cache.range: ", "leave out 0"},
    {"stretched_rule",
     "quantize: {weights: {bits: 2, group: 32, range: stretched, scale: signed_max}}\n",
     "r.yaml:5: quantize.weights.scale: ", "amax or mse"},
    {"stretched_exported",
     "quantize: {weights: {bits: 2, group: 32, range: stretched}}\nexport: gptq\n",
     "r.yaml:5: quantize.weights.range: ", "strict or full where export lists gptq"},
    {"stretched_in_gguf",
     "quantize: {preset: gguf_q4_0, weights: {range: stretched, scale: mse}}\nexport: gguf\n",
     "r.yaml:5: quantize.weights.range: ", "strict or full where export lists gguf"},
    {"stretched_with_zero_points",
     "quantize: {weights: {bits: 2, group: 32, symmetric: false, range: stretched}}\n",
     "r.yaml:5: quantize.weights.range: ", "symmetric is true"},
    {"stochastic_floats", "quantize: {preset: ct_fp8, weights: {rounding: stochastic}}\n",
     "r.yaml:5: quantize.weights.rounding: ", "nearest with quantize.weights.form: e4m3"},
    {"stochastic_solver",
     "quantize: {preset: w4a8, weights: {rounding: stochastic}, solver: gptq}\n",
     "r.yaml:5: quantize.weights.rounding: ", "nearest where quantize.solver.kind is gptq"},
};
INSTANTIATE_TEST_SUITE_P(Stretched, BadRecipe, testing::ValuesIn(kStretched),
                         [](const auto& info) { return std::string(info.param.name); });

const BadCase kKvCache[] = {
    {"bits", "quantize: {kv_cache: {bits: 5}}\n", "r.yaml:5: quantize.kv_cache.bits: ", "4 or 8"},
    {"type", "quantize: {kv_cache: q5_0}\n", "r.yaml:5: quantize.kv_cache.type: ", "q4_0"},
    {"group_of_none", "quantize: {kv_cache: {group: 32}}\n",
     "r.yaml:5: quantize.kv_cache.group: ", "type not none"},
    {"group_of_tokens", "quantize: {kv_cache: {type: q8_0, per: token, group: 32}}\n",
     "r.yaml:5: quantize.kv_cache.group: ", "quantize.kv_cache.per is group"},
    {"no_group", "quantize: {kv_cache: {type: int8, per: group}}\n",
     "r.yaml:5: quantize.kv_cache.per: ", "quantize.kv_cache.group beside group"},
    {"negative_scale", "quantize: {kv_cache: {type: q8_0, scale: signed_max}}\n",
     "r.yaml:5: quantize.kv_cache.scale: ", "range: full with signed_max"},
    {"amax_of_zero_points", "quantize: {kv_cache: {type: int4, scale: amax}}\n",
     "r.yaml:5: quantize.kv_cache.scale: ", "min_max or mse"},
    {"range_of_zero_points", "quantize: {kv_cache: {type: int4, range: full}}\n",
     "r.yaml:5: quantize.kv_cache.range: ", "symmetric is true"},
};
INSTANTIATE_TEST_SUITE_P(KvCache, BadRecipe, testing::ValuesIn(kKvCache),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(fault_E8, TrainedScalesNeedALearningRate) {
  const std::string start = "model: m\nout: o\ndata: {train: t}\ntrain: {steps: 1, ";
  EXPECT_NE(refusal_of(start + "learning_rate: 0}\nquantize: {preset: w4a8, weights: {rounding: "
                               "lsq}}\n")
                .find("quantize.weights.scale_lr: expected 0 where train.learning_rate is 0"),
            std::string::npos);
}

// LSQ's own start has positive scales whatever the rule.
TEST(TrainedScales, AreTakenWhereTheFormatHoldsThem) {
  for (const char* more :
       {"quantize: {preset: gguf_q4_0, weights: {rounding: lsq, scale_init: lsq}}\nexport: gguf\n",
        "quantize: {preset: gguf_q8_0, weights: {rounding: lsq}}\nexport: gguf\n",
        "quantize: {preset: portable_w4, weights: {rounding: lsq, scale: mse_signed, scale_init: "
        "lsq}}\nexport: [gguf, gptq, compressed-tensors]\n",
        "quantize: {preset: awq_w4_g128, weights: {rounding: lsq}}\nexport: awq\n"})
    EXPECT_EQ(refusal_of(kGood + more), "accepted") << more;
}

const BadCase kSolvers[] = {
    {"without_weights", "quantize: {solver: gptq}\n",
     "r.yaml:5: quantize.solver.kind: ", "quantize.weights.bits is a number"},
    {"key_of_the_other", "quantize: {preset: w4a8, solver: {kind: awq, block_size: 64}}\n",
     "r.yaml:5: quantize.solver.block_size: ", "only where quantize.solver.kind is gptq"},
    {"damping", "quantize: {preset: w4a8, solver: {kind: gptq, dampening_frac: -1}}\n",
     "r.yaml:5: quantize.solver.dampening_frac: ", "from 0 to 1"},
    {"percdamp", "quantize: {preset: w4a8, solver: {kind: gptq, percdamp: 0.01}}\n",
     "r.yaml:5: quantize.solver.percdamp: ", "dampening_frac"},
    {"order_in_compressed_tensors",
     "quantize: {preset: w4a8, solver: {kind: gptq, actorder: group}}\nexport: "
     "compressed-tensors\n",
     "r.yaml:5: quantize.solver.actorder: ", "where export lists compressed-tensors, got group"},
    {"order_without_groups", "quantize: {preset: w8a8, solver: {kind: gptq, actorder: group}}\n",
     "r.yaml:5: quantize.solver.actorder: ", "quantize.weights.per is not group"},
    {"ggml_rounding", "quantize: {preset: gguf_q4_0, weights: {rounding: ggml}, solver: gptq}\n",
     "r.yaml:5: quantize.weights.rounding: ", "nearest where"},
    {"super_blocks", "quantize: {preset: gguf_q4_k, solver: gptq}\n",
     "r.yaml:5: quantize.solver.kind: ", "rtn where quantize.weights.form is q4_k"},
    {"lsq_rounding", "quantize: {preset: w4a8, weights: {rounding: lsq}, solver: gptq}\n",
     "r.yaml:5: quantize.weights.rounding: ",
     "nearest where quantize.solver.kind is gptq, got lsq"},
    {"awq_and_smooth", "quantize: {preset: w4a8, smooth: 0.5, solver: awq}\n",
     "r.yaml:5: quantize.solver.kind: ", "quantize.smooth.alpha is set"},
    {"awq_and_static", "quantize: {preset: ct_w8a8_static, solver: awq}\n",
     "r.yaml:5: quantize.solver.kind: ", "quantize.activations.dynamic is off"},
    {"awq_and_adapter", "quantize: {preset: w4a8, solver: awq}\nadapter: lora\n",
     "r.yaml:5: quantize.solver.kind: ", "beside an adapter"},
    {"packed_base", "quantize: {preset: w4a8, solver: gptq}\nadapter: {kind: lora, base: nf4}\n",
     "r.yaml:5: quantize.solver.kind: ", "adapter.base is packed"},
    {"adapter_from", "quantize: {preset: w4a8, solver: gptq}\nadapter: {kind: lora, from: a}\n",
     "r.yaml:5: quantize.solver.kind: ", "adapter.from is a directory"},
};
INSTANTIATE_TEST_SUITE_P(Solvers, BadRecipe, testing::ValuesIn(kSolvers),
                         [](const auto& info) { return std::string(info.param.name); });

const BadCase kWidths[] = {
    {"no_bits", "quantize: {preset: ct_w4a16_g128, overrides: [down_proj]}\n",
     "r.yaml:5: quantize.overrides: ", "got down_proj; write matrices and their bits"},
    {"too_many_bits", "quantize: {preset: ct_w4a16_g128, overrides: [down_proj=9]}\n",
     "r.yaml:5: quantize.overrides: ", "write bits from 2 to 8, or none"},
    {"long_bits", "quantize: {preset: ct_w4a16_g128, overrides: [down_proj=08]}\n",
     "r.yaml:5: quantize.overrides: ", "write bits from 2 to 8, or none"},
    {"no_pattern", "quantize: {preset: ct_w4a16_g128, overrides: ['=4']}\n",
     "r.yaml:5: quantize.overrides: ", "got \"=4\"; write matrices"},
    {"map_of_bits", "quantize: {preset: ct_w4a16_g128, overrides: {down_proj: 8}}\n",
     "r.yaml:5: quantize.overrides: ", "got a map"},
    {"overrides_of_nothing", "quantize: {overrides: [down_proj=8]}\n",
     "r.yaml:5: quantize.overrides: ", "only where quantize.weights.bits is a number"},
    {"override_of_floats", "quantize: {preset: ct_fp8, overrides: [down_proj=4]}\n",
     "r.yaml:5: quantize.overrides: ", "only PATTERN=none where quantize.weights.form is e4m3"},
    {"override_in_compressed_tensors",
     "quantize: {preset: ct_w4a16_g128, overrides: [down_proj=3]}\nexport: compressed-tensors\n",
     "r.yaml:5: quantize.overrides: ", "2, 4 or 8, which pack into words where export lists"},
    {"override_in_awq", "quantize: {preset: awq_w4_g128, overrides: [down_proj=8]}\nexport: awq\n",
     "r.yaml:5: quantize.overrides: ", "expected 4 where export lists awq, got 8"},
    {"auto_of_nothing", "quantize: {auto_bits: 5}\n",
     "r.yaml:5: quantize.auto_bits.budget: ", "only where quantize.weights.bits is a number"},
    {"no_budget", "quantize: {preset: ct_w4a16_g128, auto_bits: {candidates: [4, 8]}}\n",
     "r.yaml:5: quantize.auto_bits.candidates: ", "only where quantize.auto_bits.budget"},
    {"one_candidate", "quantize: {preset: ct_w4a16_g128, auto_bits: {budget: 5, candidates: 4}}\n",
     "r.yaml:5: quantize.auto_bits.candidates: ", "expected at least two, got [4]"},
    {"candidate_twice",
     "quantize: {preset: ct_w4a16_g128, auto_bits: {budget: 5, candidates: [4, 8, 4]}}\n",
     "r.yaml:5: quantize.auto_bits.candidates: ", "it stands there twice"},
    {"candidate_of_9",
     "quantize: {preset: ct_w4a16_g128, auto_bits: {budget: 5, candidates: [4, 9]}}\n",
     "r.yaml:5: quantize.auto_bits.candidates: ", "a list of whole numbers from 2 to 8, got 9"},
    {"auto_in_compressed_tensors",
     "quantize: {preset: ct_w4a16_g128, auto_bits: {budget: 5, candidates: [3, 4]}}\n"
     "export: compressed-tensors\n",
     "r.yaml:5: quantize.auto_bits.candidates: ", "2, 4 or 8, which pack into words"},
    {"auto_of_minima", "quantize: {preset: gguf_q4_1, auto_bits: 6}\nexport: gguf\n",
     "r.yaml:5: quantize.auto_bits.budget: ",
     "quantize.auto_bits.candidates 4 for codes that count from a minimum where export lists gguf"},
    {"auto_in_gptq", "quantize: {preset: gptq_w4_g128, auto_bits: 5}\nexport: gptq\n",
     "r.yaml:5: quantize.auto_bits.budget: ", "none, as that format has one grid for all"},
    {"auto_of_super_blocks", "quantize: {preset: gguf_q4_k, auto_bits: 5}\n",
     "r.yaml:5: quantize.auto_bits.budget: ", "none where quantize.weights.form is q4_k"},
    {"auto_with_adapter",
     "quantize: {preset: ct_w4a16_g128, auto_bits: 5}\nadapter: {kind: lora}\n",
     "r.yaml:5: quantize.auto_bits.budget: ", "write what it chose into quantize.overrides"},
};
INSTANTIATE_TEST_SUITE_P(Widths, BadRecipe, testing::ValuesIn(kWidths),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(BadRecipeText, AutoBitsNeedATrainedModelAndText) {
  const std::string quantize = "quantize: {preset: ct_w4a16_g128, auto_bits: 5}\n";
  EXPECT_NE(refusal_of("model: {from: scratch, tokenizer: t, hidden_size: 64, intermediate_size: "
                       "172, num_hidden_layers: 2, num_attention_heads: 4}\nout: o\n"
                       "data: {train: [t.txt]}\ntrain: {steps: 10}\n" +
                       quantize)
                .find("quantize.auto_bits.budget: expected none where model is scratch"),
            std::string::npos);
  EXPECT_NE(refusal_of("model: m\nout: o\ntrain: {steps: 0}\n" + quantize)
                .find("data.train: expected a list of files where quantize.auto_bits is set"),
            std::string::npos);
  EXPECT_NE(refusal_of("model: m\nout: o\ndata: {train: [t.txt]}\ntrain: {steps: 0}\nquantize: "
                       "{preset: gguf_q4_0, weights: {rounding: ggml}, auto_bits: 5}\n")
                .find("quantize.auto_bits.budget: expected none where quantize.weights.rounding "
                      "is ggml"),
            std::string::npos);
}

TEST(Widths, AreTakenWhereTheFormatHoldsThem) {
  for (const char* more :
       {"quantize: {preset: ct_fp8, overrides: ['model.layers.0.*=none']}\nexport: "
        "compressed-tensors\n",
        "quantize: {preset: gguf_q4_0, overrides: [down_proj=8, v_proj=5]}\nexport: gguf\n",
        "quantize: {preset: gguf_q4_0, auto_bits: {budget: 5, candidates: [3, 4, 5, 8]}}\nexport: "
        "gguf\n",
        "quantize: {preset: ct_w4a8, auto_bits: {budget: 5, candidates: [3, 4, 8]}}\nexport: "
        "compressed-tensors\n",
        "quantize: {preset: ct_w4a16_g128, auto_bits: 5, solver: gptq}\n"})
    EXPECT_EQ(refusal_of(kGood + more), "accepted") << more;
}

TEST(BadRecipeText, ScalesAreTrainedBesideAllWeights) {
  const std::string line = refusal_of(
      "model: m\nout: o\ndata: {train: [t.txt]}\nquantize: {preset: w4a8, weights: {rounding: "
      "lsq}}\n"
      "train: {steps: 10, trainable: [norms]}\n");
  EXPECT_TRUE(line.starts_with("r.yaml:5: train.trainable: ")) << line;
}

TEST(BadRecipeText, ScalesAreTrainedOnlyBehindASolver) {
  const std::string start = "model: m\nout: o\ndata: {train: [t.txt]}\nquantize: w4a8\n";
  const std::string train = "train: {steps: 10, trainable: [norms, scales]}\n";
  const std::string line = refusal_of(start + train);
  EXPECT_TRUE(line.starts_with("r.yaml:5: train.trainable: ")) << line;
  EXPECT_NE(line.find("quantize.solver.kind is gptq or awq"), std::string::npos) << line;
  EXPECT_EQ(refusal_of(start + train, {"quantize.solver.kind=gptq"}), "accepted");
  EXPECT_NE(refusal_of(start + train + "adapter: lora\n").find("train.trainable"),
            std::string::npos);
  EXPECT_NE(refusal_of("model: m\nout: o\nquantize: {preset: w4a8, solver: gptq}\n"
                       "train: {steps: 0}\n")
                .find("a list of files where quantize.solver.kind is gptq"),
            std::string::npos);
}

const BadCase kYaml[] = {
    {"alias", "seed: *a\n", "r.yaml:5: ", "anchor"},
    {"anchor", "seed: &a 1\n", "r.yaml:5: ", "anchor"},
    {"billion_laughs", "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n",
     "r.yaml:5: ", "anchor"},
    {"self_alias", "data: &a [*a]\n", "r.yaml:5: ", ""},
    {"duplicate_key", "seed: 1\nseed: 2\n", "r.yaml:6: seed: ", "first at r.yaml:5"},
    {"duplicate_nested", "distill:\n  kl: 1.0\n  kl: 2.0\n", "r.yaml:7: kl: ", "remove one"},
    {"duplicate_section", "train: {batch: 2}\n", "r.yaml:5: train: ", "first at r.yaml:4"},
    {"merge", "distill: {<<: {kl: 1.0}}\n", "r.yaml:5: <<: ", "merge"},
    {"tab", "distill:\n\tkl: 1.0\n", "r.yaml:6: ", "tab"},
    {"tab_after_spaces", "distill:\n  \tkl: 1.0\n", "r.yaml:6: ", "tab"},
    {"tag", "seed: !!int 3\n", "r.yaml:5: ", "tag"},
    {"custom_tag", "seed: !secret 3\n", "r.yaml:5: ", "tag"},
    {"second_document", "---\nseed: 2\n", "r.yaml:5: ", "second"},
    {"map_as_key", "? {a: b}\n: 3\n", "r.yaml:5: ", "expected a key"},
    {"null_key", "~: 3\n", "r.yaml:5: ", "expected a key"},
    {"open_quote", "out2: \"abc\n", "r.yaml:", "expected YAML"},
    {"open_bracket", "export: [hf\n", "r.yaml:", "expected YAML"},
    {"bad_indentation", "distill:\n   kl: 1.0\n  temperature: 1.0\n", "r.yaml:7: ", ""},
    {"latin1", "seed: \xE9\n", "r.yaml:5: ", "UTF-8, got the byte 0xE9"},
    {"overlong", "seed: \xC0\xAF\n", "r.yaml:5: ", "UTF-8"},
    {"surrogate", "seed: \xED\xA0\x80\n", "r.yaml:5: ", "UTF-8"},
    {"cut_character", "seed: \xE2\x82", "r.yaml:5: ", "UTF-8"},
    {"control", "seed: \x01\n", "r.yaml:5: ", "control character 0x01"},
};
INSTANTIATE_TEST_SUITE_P(Yaml, BadRecipe, testing::ValuesIn(kYaml),
                         [](const auto& info) { return info.param.name; });

const BadCase kKeys[] = {
    {"misspelt_section", "distil:\n  kl: 1.0\n", "r.yaml:5: distil: ", "did you mean distill?"},
    {"misspelt_nested", "checkpoint: {evry: 5}\n",
     "r.yaml:5: checkpoint.evry: ", "did you mean checkpoint.every?"},
    {"other_case", "Seed: 5\n", "r.yaml:5: Seed: ", "did you mean seed?"},
    {"known_elsewhere", "lr: 0.1\n", "r.yaml:5: lr: ", "did you mean train.learning_rate?"},
    {"another_section", "batch: 8\n", "r.yaml:5: batch: ", "did you mean train.batch?"},
    {"nickname", "generate: {max_new_tokens: 8}\n",
     "r.yaml:5: generate.max_new_tokens: ", "did you mean generate.max_tokens?"},
    {"nothing_near", "distill: {zzzzzzz: 8}\n",
     "r.yaml:5: distill.zzzzzzz: ", "distill takes teacher, kl, cross_entropy, temperature"},
    {"dotted", "distill.kl: 1.0\n", "r.yaml:5: distill.kl: ", "nested"},
    {"number_as_key", "5: 1.0\n", "r.yaml:5: 5: ", "unknown"},
    {"strange_key", "\"a\\nb\": 1.0\n", "r.yaml:5: \"a\\x0Ab\": ", "unknown"},
    {"section_without_short_form", "checkpoint: {keep: 3}\nquantize:\n",
     "r.yaml:6: quantize: ", "expected a map, got nothing"},
    {"list_for_a_section", "quantize: [w8a8]\n", "r.yaml:5: quantize.preset: ", "got a list"},
};
INSTANTIATE_TEST_SUITE_P(Keys, BadRecipe, testing::ValuesIn(kKeys),
                         [](const auto& info) { return info.param.name; });

const BadCase kValues[] = {
    {"word_for_number", "distill: {kl: \"fast\"}\n",
     "r.yaml:5: distill.kl: ", "a number from 0 to 1000000, got \"fast\""},
    {"quoted_number", "seed: \"7\"\n", "r.yaml:5: seed: ", "remove the quotes"},
    {"fraction", "seed: 1.5\n", "r.yaml:5: seed: ", "without a point"},
    {"exponent", "seed: 1e3\n", "r.yaml:5: seed: ", "without a point or an exponent"},
    {"hexadecimal", "seed: 0x10\n", "r.yaml:5: seed: ", "got 0x10; write it in decimal"},
    {"octal", "seed: 010\n", "r.yaml:5: seed: ", "leading zero"},
    {"octal_number", "distill: {kl: 01}\n", "r.yaml:5: distill.kl: ", "leading zero"},
    {"underscore", "seed: 1_000\n", "r.yaml:5: seed: ", "got 1_000"},
    {"nan", "distill: {kl: .nan}\n", "r.yaml:5: distill.kl: ", "got .nan"},
    {"infinity", "distill: {kl: .inf}\n", "r.yaml:5: distill.kl: ", "got .inf"},
    {"nan_word", "distill: {kl: nan}\n", "r.yaml:5: distill.kl: ", "got nan"},
    {"hexadecimal_number", "distill: {kl: 0x1p3}\n", "r.yaml:5: distill.kl: ", "decimal"},
    {"overflow", "distill: {kl: 1e999}\n", "r.yaml:5: distill.kl: ", "got 1e999"},
    {"whole_overflow", "seed: 99999999999999999999\n", "r.yaml:5: seed: ", "9007199254740992"},
    {"too_small", "checkpoint: {keep: 1}\n", "r.yaml:5: checkpoint.keep: ", "from 2 to"},
    {"negative", "threads: -1\n", "r.yaml:5: threads: ", "from 0 to 4096, got -1"},
    {"excluded_bound", "distill: {teacher: self, temperature: 0}\n",
     "r.yaml:5: distill.temperature: ", "above 0"},
    {"not_a_choice", "quantize: {weights: 9}\n",
     "r.yaml:5: quantize.weights.bits: ", "none or a whole number from 2 to 8, got 9"},
    {"toggle_yes", "data2: 1\n", "r.yaml:5: data2: ", "did you mean data?"},
    {"wrong_word", "backend: gpu\n",
     "r.yaml:5: backend: ", "one of auto, cpu, cuda, got gpu; did you mean cpu?"},
    {"list_for_a_scalar", "seed: [1]\n", "r.yaml:5: seed: ", "got a list"},
    {"map_for_a_scalar", "seed: {a: 1}\n", "r.yaml:5: seed: ", "got a map"},
    {"nothing", "seed:\n", "r.yaml:5: seed: ", "got nothing; write a value, or remove the key"},
    {"null", "seed: null\n", "r.yaml:5: seed: ", "got nothing"},
    {"list_in_a_list", "export: [[hf]]\n", "r.yaml:5: export: ", "got a list"},
    {"wrong_word_in_a_list", "export:\n  - hf\n  - hff\n",
     "r.yaml:7: export: ", "did you mean hf?"},
    {"twice_in_a_list", "export: [hf, hf]\n", "r.yaml:5: export: ", "twice"},
    {"layers_reversed", "quantize: {preset: w8a8, layers: [5-3]}\n",
     "r.yaml:5: quantize.layers: ", "lower layer first"},
    {"layers_negative", "quantize: {preset: w8a8, layers: [-1]}\n",
     "r.yaml:5: quantize.layers: ", "got -1"},
    {"layers_huge", "quantize: {layers: [99999999999999999999]}\n",
     "r.yaml:5: quantize.layers: ", "write a layer"},
    {"resume_allow_unknown", "resume_allow: [train.stps]\n",
     "r.yaml:5: resume_allow: ", "train.stps"},
    {"empty_path", "resume: \"\"\n", "r.yaml:5: resume: ", "write a value"},
    {"unset_variable", "resume: $QAT_NO_SUCH_VARIABLE/x\n",
     "r.yaml:5: resume: ", "QAT_NO_SUCH_VARIABLE"},
    {"open_variable", "resume: ${HOME\n", "r.yaml:5: resume: ", "${NAME}"},
    {"lone_dollar", "resume: a$\n", "r.yaml:5: resume: ", "$$"},
    {"other_home", "resume: ~root/x\n", "r.yaml:5: resume: ", "only ~/"},
};
INSTANTIATE_TEST_SUITE_P(Values, BadRecipe, testing::ValuesIn(kValues),
                         [](const auto& info) { return info.param.name; });

const BadCase kTogether[] = {
    {"group_without_bits", "quantize: {weights: {group: 32}}\n",
     "r.yaml:5: quantize.weights.group: ", "quantize.weights.bits"},
    {"group_per_channel", "quantize: {preset: w8a8, weights: {group: 32, per: channel}}\n",
     "r.yaml:5: quantize.weights.group: ", "quantize.weights.per is group"},
    {"per_group_alone", "quantize: {preset: w8a8, weights: {per: group}}\n",
     "r.yaml:5: quantize.weights.per: ", "quantize.weights.group"},
    {"range_of_asymmetric", "quantize: {weights: {bits: 8, symmetric: false, range: full}}\n",
     "r.yaml:5: quantize.weights.range: ", "quantize.weights.symmetric is true"},
    {"amax_of_asymmetric", "quantize: {weights: {bits: 8, symmetric: false, scale: amax}}\n",
     "r.yaml:5: quantize.weights.scale: ", "min_max"},
    {"signed_max_strict", "quantize: {weights: {bits: 4, scale: signed_max}}\n",
     "r.yaml:5: quantize.weights.scale: ", "range: full"},
    {"static_per_token",
     "quantize:\n  activations:\n    bits: 8\n    dynamic: false\n    per: token\n",
     "r.yaml:9: quantize.activations.per: ", "dynamic"},
    {"no_matrix", "quantize: {preset: w8a8, include: []}\n",
     "r.yaml:5: quantize.include: ", "at least one"},
    {"percentile_of_min_max", "quantize: {preset: w8a8, calibrate: {percentile: 99.0}}\n",
     "r.yaml:5: quantize.calibrate.percentile: ", "quantize.calibrate.range is percentile"},
    {"kl_without_teacher", "distill: {teacher: none, kl: 1.0}\n",
     "r.yaml:5: distill.kl: ", "distill.teacher"},
    {"no_loss", "distill: {teacher: self, kl: 0}\n",
     "r.yaml: distill.cross_entropy: ", "distill.kl"},
    {"no_task_data", "evaluate: [arc_easy]\n", "r.yaml:", "evaluate.task_data: expected"},
    {"task_data_without_task", "evaluate: {task_data: d}\n",
     "r.yaml:5: evaluate.task_data: ", "this key only where evaluate lists a task"},
    {"shots_without_chains", "evaluate: {metrics: [piqa], task_data: d, shots: 3}\n",
     "r.yaml:5: evaluate.shots: ", "this key only where evaluate lists gsm8k"},
    {"no_text_to_agree_on", "evaluate: [agreement]\n",
     "r.yaml:5: evaluate.metrics: ", "data.eval beside agreement"},
    {"unknown_task", "evaluate: [mmlu]\n", "r.yaml:5: evaluate", "arc_easy"},
    {"no_held_out_text", "evaluate: [perplexity]\n", "r.yaml:5: evaluate.metrics: ", "data.eval"},
    {"integers_of_nothing", "export: [compressed-tensors]\n",
     "r.yaml:5: export: ", "quantized weights"},
    {"gptq_of_nothing", "export: [hf, gptq]\n", "r.yaml:5: export: ", "quantized weights for gptq"},
    {"gptq_of_f32_scales", "export: [gptq]\nquantize: w8a8\n",
     "r.yaml:5: export: ", "quantize.weights.scale_type f16 or portable"},
    {"gptq_of_scales_by_hand",
     "export: [gptq]\nquantize: {weights: {bits: 4, group: 32, scale_type: bf16}}\n",
     "r.yaml:6: quantize.weights.scale_type: ", "where export lists gptq"},
    {"awq_of_8_bits", "quantize: gptq_w8\nexport: [awq]\n", "r.yaml:6: export: ", "bits 4"},
    {"gptq_of_3_bits",
     "quantize: {weights: {bits: 3, group: 32, scale_type: f16}}\nexport: [gptq]\n",
     "r.yaml:5: quantize.weights.bits: ", "2, 4 or 8"},
    {"gptq_of_one_scale",
     "quantize: {weights: {bits: 8, per: tensor, scale_type: f16}}\nexport: [gptq]\n",
     "r.yaml:5: quantize.weights.per: ", "group or channel"},
    {"negative_scales",
     "quantize: {weights: {bits: 4, group: 32, range: full, scale: signed_max}}\n"
     "export: compressed-tensors\n",
     "r.yaml:5: quantize.weights.scale: ", "positive scales"},
    {"dynamic_per_tensor",
     "quantize: {preset: w8a8, activations: {per: tensor}}\nexport: [compressed-tensors]\n",
     "r.yaml:5: quantize.activations.per: ", "token"},
    {"unpackable_bits", "quantize: {weights: {bits: 5}}\nexport: [compressed-tensors]\n",
     "r.yaml:5: quantize.weights.bits: ", "pack into words"},
    {"shard_of_parsecs", "max_shard_size: 5 parsecs\n",
     "r.yaml:5: max_shard_size: ", "expected a size such as 500MB or 5GB, got \"5 parsecs\""},
    {"split_of_nothing", "split_max_size: 0GB\n",
     "r.yaml:5: split_max_size: ", "none, or a size such as 500MB"},
    {"q4_k_of_3_bits", "quantize: {preset: gguf_q4_k, weights: {bits: 3}}\n",
     "r.yaml:5: quantize.weights.bits: ", "expected 4 with quantize.weights.form: q4_k, got 3"},
    {"q4_k_in_groups_of_64", "quantize: {weights: {bits: 4, form: q4_k, group: 64}}\n",
     "r.yaml:5: quantize.weights.group: ", "expected 32 with quantize.weights.form: q4_k, got 64"},
    {"q6_k_of_ggmls_rounding", "quantize: {preset: gguf_q6_k, weights: {rounding: ggml}}\n",
     "r.yaml:5: quantize.weights.rounding: ", "expected nearest with quantize.weights.form: q6_k"},
    {"q4_k_activations", "quantize: {preset: w8a8, activations: {form: q4_k}}\n",
     "r.yaml:5: quantize.activations.form: ", "expected integer or e4m3, got q4_k"},
    {"q4_k_elsewhere", "quantize: gguf_q4_k\nexport: [compressed-tensors]\n",
     "r.yaml:6: export: ", "quantize.weights.form integer or e4m3 beside compressed-tensors"},
    {"q4_k_as_gptq", "quantize: gguf_q4_k\nexport: [gptq]\n",
     "r.yaml:6: export: ", "quantize.weights.form integer beside gptq"},
    {"fp8_of_4_bits", "quantize: {preset: ct_fp8, weights: {bits: 4}}\n",
     "r.yaml:5: quantize.weights.bits: ", "expected 8 with quantize.weights.form: e4m3, got 4"},
    {"fp8_in_groups", "quantize: {preset: ct_fp8, weights: {group: 128}}\n",
     "r.yaml: quantize.weights.per: ", "channel or tensor"},
    {"fp8_calibrated", "quantize: {preset: ct_fp8, activations: {dynamic: false}}\n",
     "r.yaml:5: quantize.activations.dynamic: ", "expected true with"},
    {"fp8_in_gguf", "quantize: ct_fp8\nexport: [gguf]\n",
     "r.yaml:6: export: ", "quantize.weights.form integer, q4_k or q6_k beside gguf"},
    {"fp8_weights_alone_beside_int8",
     "quantize: {preset: w8a8, weights: {form: e4m3}}\nexport: [compressed-tensors]\n",
     "r.yaml:6: export: ", "quantize.activations.form e4m3, as the weights, beside"},
};

INSTANTIATE_TEST_SUITE_P(Together, BadRecipe, testing::ValuesIn(kTogether),
                         [](const auto& info) { return info.param.name; });

TEST(fault_E8, WholeFiles) {
  EXPECT_TRUE(refusal_of("").starts_with("r.yaml: expected a recipe, got an empty file"));
  EXPECT_TRUE(refusal_of("# nothing\n").starts_with("r.yaml: expected a recipe"));
  EXPECT_TRUE(refusal_of("- a\n- b\n").starts_with("r.yaml:1: expected a map of keys"));
  EXPECT_TRUE(refusal_of("hello\n").starts_with("r.yaml:1: expected a map of keys"));
  EXPECT_NE(refusal_of(std::string("out: a\0b\n", 9)).find("0x00"), std::string::npos);
  EXPECT_NE(refusal_of("\xFF\xFEo\0u\0").find("UTF-16"), std::string::npos);
  EXPECT_EQ(refusal_of("\xEF\xBB\xBF" + kGood), "accepted") << "YAML allows a UTF-8 mark";
}

TEST(fault_E8, MissingKeysAreNamed) {
  EXPECT_TRUE(refusal_of("out: o\n").starts_with("r.yaml: model.from: expected scratch or a path"));
  EXPECT_TRUE(refusal_of("model: m\n").starts_with("r.yaml: out: expected a path, got nothing"));
  EXPECT_TRUE(refusal_of("model: m\nout: o\n").starts_with("r.yaml: train.steps: expected"));
  EXPECT_TRUE(
      refusal_of("model: m\nout: o\ntrain: {steps: 1}\n").starts_with("r.yaml: data.train"));
  EXPECT_EQ(refusal_of("model: m\nout: o\ntrain: {steps: 0}\n"), "accepted");
  EXPECT_TRUE(refusal_of("model: scratch\nout: o\ntrain: {steps: 1}\n")
                  .starts_with("r.yaml: model.tokenizer: expected a path where model.from is"));
}

TEST(fault_E8, TogglesAreTrueOrFalse) {
  const auto fuse = [](const std::string& value) {
    return refusal_of("model: m\nout: o\ndata: {train: t}\ntrain: {steps: 1, fuse: " + value +
                      "}\n");
  };
  EXPECT_EQ(fuse("yes"), "r.yaml:4: train.fuse: expected true or false, got yes; write true");
  EXPECT_EQ(fuse("No"), "r.yaml:4: train.fuse: expected true or false, got No; write false");
  EXPECT_EQ(fuse("\"true\""),
            "r.yaml:4: train.fuse: expected true or false, got \"true\"; write true");
  EXPECT_EQ(fuse("0"), "r.yaml:4: train.fuse: expected true or false, got 0; write false");
  for (const char* good : {"true", "false", "on", "off"}) EXPECT_EQ(fuse(good), "accepted");
}

TEST(fault_E8, NumbersAreDecimal) {
  const auto rate = [](const std::string& value) {
    return parse_recipe(
               "model: m\nout: o\ndata: {train: t}\ntrain:\n  steps: 1\n  learning_rate: " + value +
                   "\n",
               "r.yaml")
        .train.learning_rate;
  };
  EXPECT_EQ(rate("1e-4"), 1e-4);
  EXPECT_EQ(rate("1.0e-4"), 1e-4);
  EXPECT_EQ(rate(".5"), 0.5);
  EXPECT_EQ(rate("+2"), 2.0);
  EXPECT_EQ(rate("1.E-2"), 0.01);
  EXPECT_EQ(rate("0"), 0.0);
}

TEST(fault_E8, OptionsAreNamed) {
  EXPECT_TRUE(refusal_of(kGood, {"trian.steps=1"}).starts_with("--set trian.steps: "));
  EXPECT_NE(refusal_of(kGood, {"train.stesp=1"}).find("did you mean train.steps?"),
            std::string::npos);
  EXPECT_TRUE(refusal_of(kGood, {"train.steps="}).starts_with("--set train.steps: expected"));
  EXPECT_TRUE(refusal_of(kGood, {"train.steps"}).starts_with("--set: expected key=value"));
  EXPECT_TRUE(refusal_of(kGood, {"=1"}).starts_with("--set: expected key=value"));
  EXPECT_TRUE(refusal_of(kGood, {"train.steps=[1"}).starts_with("--set train.steps: expected"));
  EXPECT_TRUE(refusal_of(kGood, {"train={steps: 1, x: 2}"})
                  .starts_with("--set train: train.x: expected a key"));
  EXPECT_TRUE(refusal_of(kGood, {"train.steps=&a 1"}).starts_with("--set train.steps: expected"));
  EXPECT_TRUE(refusal_of(kGood, {std::string("train.steps=\xFF")})
                  .starts_with("--set train.steps: expected UTF-8"));
  EXPECT_EQ(parse_recipe(kGood, "r.yaml", {literal_option("--out", "out", "a: [b")}).out, "a: [b");
}

TEST(fault_E8, OutMustNotLieInTheModel) {
  const std::string rest = "data: {train: [t.txt]}\ntrain: {steps: 10}\n";
  for (const char* out : {"m", "m/run", "./m/../m/x", "x/../m"})
    EXPECT_TRUE(refusal_of(fmt::format("model: m\nout: {}\n{}", out, rest))
                    .starts_with("r.yaml:2: out: expected a directory outside the model's"))
        << out;
  EXPECT_EQ(refusal_of("model: m\nout: m2\n" + rest), "accepted");
  EXPECT_EQ(refusal_of("model: a/m.gguf\nout: a/run\n" + rest), "accepted");
}

TEST(fault_E8, PathsThatAreNotFiles) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("qat_recipe_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const auto load = [](const std::string& path) { return refusal([&] { load_recipe(path); }); };
  EXPECT_NE(load(folder / "none.yaml").find("no such file"), std::string::npos);
  EXPECT_NE(load(folder).find("a directory"), std::string::npos);
  const std::string fifo = folder / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_NE(load(fifo).find("not a file"), std::string::npos);
  EXPECT_NE(load("/dev/zero").find("not a file"), std::string::npos);
  EXPECT_EQ(load(folder / "a\nb.yaml").find('\n'), std::string::npos);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace qat::recipe
