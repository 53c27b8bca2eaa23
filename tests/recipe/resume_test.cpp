// The way back: what a run directory's recipe.yaml must preserve, and which changes a resumed run
// may not have (fault A16).
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/random.h"
#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

const std::string kGood = "model: m\nout: o\ndata: {train: [t.txt]}\ntrain: {steps: 10}\n";

Recipe parsed(const std::vector<std::string>& set) {
  std::vector<RecipeOverride> options;
  for (const auto& argument : set) options.push_back(set_option(argument));
  return parse_recipe(kGood, "r.yaml", options);
}

std::string refusal_of_resume(const std::vector<std::string>& before,
                              const std::vector<std::string>& after) {
  try {
    check_resumable(parsed(before), parsed(after), "runs/a");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    return error.what();
  }
  return "";
}

void expect_reads_back(const Recipe& recipe) {
  const std::string yaml = to_yaml(recipe);
  const Recipe again = parse_recipe(yaml, "recipe.yaml");
  for (const auto& field : recipe_fields()) {
    if (field.when.holds != nullptr && !field.when.holds(recipe)) continue;
    EXPECT_EQ(field.get(again), field.get(recipe)) << field.key << "\n" << yaml;
  }
  EXPECT_EQ(to_yaml(again), yaml);
  EXPECT_EQ(again.quantize.weights.group_by_hand, recipe.quantize.weights.group_by_hand);
  EXPECT_EQ(again.quantize.weights.spec(), recipe.quantize.weights.spec());
  EXPECT_EQ(again.quantize.activations.spec(), recipe.quantize.activations.spec());
  EXPECT_TRUE(recipe_differences(recipe, again, {}).empty());
}

TEST(ResolvedRecipe, EachSettingReadsBack) {
  const std::vector<std::vector<std::string>> settings = {
      {},
      {"quantize=w8a8"},
      {"quantize=ct_w8a8", "quantize.smooth=search"},
      {"quantize=w4a8"},
      {"quantize=w4a8", "quantize.weights.group=32"},
      {"quantize=w4a8", "quantize.weights.group=64"},
      {"quantize=w4a8", "quantize.weights.per=tensor"},
      {"quantize=w4a8", "quantize.weights.symmetric=false"},
      {"quantize=w4a8", "quantize.weights=none"},
      {"quantize=w8a8", "quantize.activations={dynamic: false, symmetric: false}"},
      {"quantize=w8a8", "quantize.activations={range: full, scale: half_range}"},
      {"quantize.weights={bits: 4, group: 32, scale: minmax}"},
      {"quantize.weights={bits: 3, scale: signed_max, range: full, scale_type: f16}"},
      {"quantize=w8a8", "quantize.layers=[0, 2-4]", "quantize.exclude=['*.0.*', down_proj]"},
      {"quantize=w8a8", "quantize.calibrate={range: percentile, percentile: 99.99}"},
      {"quantize=w8a8", "quantize.smooth=0.85", "train.enable={order: sensitivity, layers: 2}"},
      {"quantize=ct_w4a16_g128", "quantize.overrides=['*.0.*=8', q_proj=none, 'a=b=3']"},
      {"quantize=ct_w4a16_g128", "quantize.auto_bits=4.5"},
      {"quantize=ct_w4a16_g128", "quantize.auto_bits={budget: 5, candidates: [3, 4, 8]}",
       "quantize.overrides=down_proj=8"},
      {"distill=self"},
      {"distill={kl: 0.3}"},
      {"distill={teacher: ./self, kl: 0.3, cross_entropy: 0.7}"},
      {"train.schedule={kind: wsd}", "train.optimizer={state_bits: 8, master: bf16_stochastic}"},
      {"train.schedule=constant", "train.fuse=off"},
      {"model={from: scratch, tokenizer: t, hidden_size: 64, intermediate_size: 172, "
       "num_hidden_layers: 2, num_attention_heads: 4}"},
      {"resume=checkpoints/step-5", "resume_allow=[train.steps, quantize]"},
      {"data.eval=e.txt", "evaluate.max_windows=3"},
      {"data.cache=off", "data.format=messages"},
      {"export=[hf, hf-master]", "generate=[Hello, 'a: b', '#']"},
  };
  for (const auto& set : settings) {
    SCOPED_TRACE(set.empty() ? "defaults" : set.back());
    expect_reads_back(parsed(set));
  }
}

TEST(ResolvedRecipe, EveryTextReadsBack) {
  std::vector<std::string> texts = {
      "null", "~",  "true", "1",    "1e5",  "- a", "a: b", "# c", "'", "\"",  "\\",  "a b ", " a",
      "[",    "{}", "&a",   "*a",   "!a",   "%a",  "@",    "`",   "?", "---", "...", "\n",   "a\nb",
      "\t",   "é",  "日本", "🙂", "Null", "a,b", "<<",   "=",   "|", ">",   ":"};
  for (uint64_t i = 0; i < 300; ++i) {
    std::string text;
    const auto words = philox(7, 0, i);
    for (uint32_t k = 0; k < 1 + words[0] % 9; ++k)
      text += char(philox(7, 1 + k, i)[1] % 127 + (k % 2));
    texts.push_back(text);
  }
  for (const auto& text : texts) {
    Recipe recipe = parsed({});
    recipe.generate.prompts = {text, "after"};
    const Recipe again = parse_recipe(to_yaml(recipe), "recipe.yaml");
    ASSERT_EQ(again.generate.prompts, recipe.generate.prompts) << to_yaml(recipe);
  }
}

TEST(ResolvedRecipe, PathsReadBackAsTheyWere) {
  for (const std::string path : {"a b", "~/x", "$HOME/x", "cost $5", "self", "none", "scratch",
                                 "auto", "a#b", "a: b", "日本/モデル", "[x]", "-"}) {
    Recipe recipe = parsed({});
    recipe.out = path;
    recipe.data.train = {path, path};
    const Recipe again = parse_recipe(to_yaml(recipe), "recipe.yaml");
    // A leading ~ comes back behind ./, which names the same file.
    const std::string wanted = path.starts_with('~') ? "./" + path : path;
    EXPECT_EQ(again.out, wanted);
    EXPECT_EQ(again.data.train, (std::vector<std::string>{wanted, wanted}));
  }
}

TEST(ResolvedRecipe, VariablesInPathsAreExpanded) {
  setenv("QAT_RECIPE_TEST", "/some where", 1);
  setenv("HOME", "/home/someone", 1);
  const Recipe recipe = parsed({"model=${QAT_RECIPE_TEST}/a", "out=~/runs/$QAT_RECIPE_TEST-$$",
                                "data.train=[\"$QAT_RECIPE_TEST/*.txt\"]"});
  EXPECT_EQ(recipe.model.from.path, "/some where/a");
  EXPECT_EQ(recipe.out, "/home/someone/runs//some where-$");
  EXPECT_EQ(recipe.data.train, std::vector<std::string>{"/some where/*.txt"});
}

TEST(Resume, ChangesThatMatterAreRefusedWithBothValues) {
  const std::string line =
      refusal_of_resume({"quantize=w8a8"}, {"quantize=w8a8", "train.learning_rate=1e-3",
                                            "data.train=[u.txt]", "quantize.weights.bits=4"});
  EXPECT_TRUE(line.starts_with("runs/a: expected the recipe it was started with")) << line;
  for (const char* part :
       {"train.learning_rate: 2.0e-05 -> 0.001", "data.train: [t.txt] -> [u.txt]",
        "quantize.weights.bits: 8 -> 4", "resume_allow: ["})
    EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(Resume, ChangesThatDoNotMatterPass) {
  EXPECT_EQ(refusal_of_resume({}, {"train.log_every=7", "checkpoint={every: 3, keep: 9}",
                                   "threads=3", "resume=never", "train.recompute=block",
                                   "data.eval=[e]", "out=elsewhere", "export=[hf]"}),
            "");
}

TEST(Resume, AllowedKeysAndSectionsPass) {
  EXPECT_EQ(refusal_of_resume({}, {"train.steps=20", "resume_allow=[train.steps]"}), "");
  EXPECT_EQ(refusal_of_resume({}, {"train.schedule=linear", "resume_allow=[train.schedule]"}), "");
  EXPECT_NE(refusal_of_resume({}, {"train.steps=20", "resume_allow=[train.schedule]"}), "");
  EXPECT_NE(refusal_of_resume({}, {"train.steps=20", "seed=2", "resume_allow=[seed]"}), "");
}

TEST(Resume, TheHashFollowsWhatMatters) {
  const std::string hash = recipe_hash(parsed({}));
  EXPECT_EQ(hash.size(), 16u);
  EXPECT_EQ(recipe_hash(parsed({"threads=2", "train.log_every=5"})), hash);
  EXPECT_EQ(recipe_hash(parsed({"train.learning_rate=2e-5"})), hash) << "the default, spelt out";
  EXPECT_NE(recipe_hash(parsed({"seed=2"})), hash);
  EXPECT_NE(recipe_hash(parsed({"quantize=w8a8"})), recipe_hash(parsed({"quantize=w4a8"})));
}

/// Each key that matters must show in the differences when only it changes.
TEST(Resume, EveryKeyThatMattersIsCompared) {
  const Recipe before = parsed({"quantize={preset: w4a8, calibrate: {range: percentile}}",
                                "train.schedule={kind: wsd, decay: 2}"});
  for (const auto& field : recipe_fields()) {
    if (field.when.holds != nullptr && !field.when.holds(before)) continue;
    Recipe after = before;
    FieldValue value = field.get(after);
    if (auto* toggle = std::get_if<bool>(&value)) *toggle = !*toggle;
    if (auto* whole = std::get_if<int64_t>(&value)) ++*whole;
    if (auto* number = std::get_if<double>(&value)) *number += 0.5;
    if (auto* text = std::get_if<std::string>(&value)) {
      std::string other = *text + "x";
      if (field.kind == FieldKind::word || !field.words.empty()) other = "?";
      for (const auto& word : field.words)
        if (word != *text) other = word;
      if (other == "?") continue;  // one word only: nothing to change
      *text = other;
    }
    if (auto* list = std::get_if<std::vector<std::string>>(&value)) {
      if (!list->empty())
        list->clear();
      else
        list->push_back(!field.words.empty()                   ? field.words.front()
                        : field.kind == FieldKind::layer_range ? "0-5"
                                                               : "x");
    }
    field.set(after, value);
    const auto differences = recipe_differences(before, after, {});
    EXPECT_EQ(!differences.empty(), field.matters == Matters::yes) << field.key;
  }
}

}  // namespace
}  // namespace qat::recipe
