#include "recipes/run/recipe/resolve.h"

#include <algorithm>
#include <filesystem>
#include <tuple>
#include <utility>

#include "engine/core/error.h"
#include "recipes/run/recipe/export_targets.h"
#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/parse_value.h"
#include "recipes/run/recipe/presets.h"
#include "recipes/run/recipe/words.h"

namespace qat::recipe {
namespace {

/// Who wrote which key.
class Sources {
 public:
  Sources(const Assignments& written, std::string name)
      : written_(written), name_(std::move(name)) {}

  /// Written, and not since made meaningless.
  bool by_hand(const std::string& key) const {
    return written_.contains(key) &&
           std::find(dropped_.begin(), dropped_.end(), key) == dropped_.end();
  }
  /// Written by the file while one of `deciders` (a key, or a section) came from an option.
  bool outdated(const std::string& key, const std::vector<std::string>& deciders) const {
    const auto found = written_.find(key);
    if (found == written_.end() || found->second.from == Assignment::From::option) return false;
    for (const auto& [other, assignment] : written_)
      for (const auto& decider : deciders)
        if (assignment.from == Assignment::From::option &&
            (other == decider || other.starts_with(decider + ".")))
          return true;
    return false;
  }
  void drop(const std::string& key) { dropped_.push_back(key); }
  /// Where a key was written, else the file.
  std::string where(const std::string& key) const {
    const auto found = written_.find(key);
    return found == written_.end() ? name_ : found->second.node.where;
  }
  const std::vector<std::string>& dropped() const { return dropped_; }

 private:
  const Assignments& written_;
  std::string name_;
  std::vector<std::string> dropped_;
};

void set_from(const Recipe& from, Recipe& to, const Field& field) {
  field.set(to, field.get(from));
}

[[noreturn]] void refuse_together(const Sources& sources, const std::string& key,
                                  const std::string& expected, const std::string& got,
                                  const std::string& advice) {
  refuse("{}: expected {}, got {}; {}", located(sources.where(key), key), expected, got, advice);
}

void drop_outdated(Sources& sources, Recipe& recipe, const Recipe& defaults,
                   const std::vector<std::string>& keys, const std::vector<std::string>& deciders) {
  for (const auto& key : keys) {
    if (!sources.by_hand(key) || !sources.outdated(key, deciders)) continue;
    sources.drop(key);
    set_from(defaults, recipe, *find_field(key));
  }
}

/// A form written by hand decides what else its grid is made of.
void fill_form(WeightQuant& weights, const Sources& sources) {
  if (!weights.bits || weights.form == Form::integer) return;
  const auto fill = [&](const char* name, auto& member, auto value) {
    if (!sources.by_hand(std::string("quantize.weights.") + name)) member = value;
  };
  if (weights.form == Form::e4m3) {
    fill("bits", weights.bits, 8);
    fill("symmetric", weights.symmetric, true);
    fill("scale", weights.scale, ScaleRule::amax);
    return;
  }
  const QuantSpec grid = weights.form == Form::q4_k ? q4_k_grid() : q6_k_grid();
  fill("bits", weights.bits, grid.bits);
  fill("per", weights.per, grid.per);
  fill("group", weights.group, grid.group);
  fill("symmetric", weights.symmetric, grid.symmetric());
  fill("offset", weights.offset, Offset::minimum);
  fill("range", weights.range, SymmetricRange::full);
  fill("scale", weights.scale, grid.rule);
  fill("scale_type", weights.scale_type, grid.scale_type);
  weights.fallback = WeightQuant::Fallback::ggml;
}

void fill_quantize(Recipe& recipe, const Sources& sources) {
  WeightQuant& weights = recipe.quantize.weights;
  const std::string w = "quantize.weights.", a = "quantize.activations.";
  if (sources.by_hand(w + "form")) fill_form(weights, sources);
  weights.group_by_hand = sources.by_hand(w + "group");
  if (weights.group_by_hand && !sources.by_hand(w + "per")) weights.per = Per::group;
  if (weights.per != Per::group && !weights.group_by_hand) weights.group = 0;
  if (!sources.by_hand(w + "scale") && !weights.symmetric && weights.scale != ScaleRule::mse)
    weights.scale = ScaleRule::min_max;
  if (weights.symmetric && weights.scale == ScaleRule::min_max) weights.scale = ScaleRule::no_clip;
  if (weights.symmetric && weights.range == SymmetricRange::stretched &&
      !sources.by_hand(w + "scale") && weights.scale != ScaleRule::mse)
    weights.scale = ScaleRule::amax;

  ActivationQuant& activations = recipe.quantize.activations;
  if (!activations.dynamic && !sources.by_hand(a + "per")) activations.per = ActivationPer::tensor;
  // Static codes saturate at -128 where they are served.
  if (!activations.dynamic && activations.symmetric && !sources.by_hand(a + "range"))
    activations.range = SymmetricRange::full;
  const bool groups = sources.by_hand(a + "group");
  if (groups && !sources.by_hand(a + "per")) activations.per = ActivationPer::group;
  if (activations.per != ActivationPer::group && !groups) activations.group = 0;
  if (!sources.by_hand(a + "scale") && !activations.symmetric &&
      activations.scale != ScaleRule::mse)
    activations.scale = ScaleRule::min_max;
  if (activations.symmetric && activations.scale == ScaleRule::min_max)
    activations.scale = ScaleRule::no_clip;
}

void fill_kv_cache(KvCacheQuant& kv, const Sources& sources) {
  const std::string key = "quantize.kv_cache.";
  if (sources.by_hand(key + "group") && !sources.by_hand(key + "per")) kv.per = KvPer::group;
  if (kv.per != KvPer::group && !sources.by_hand(key + "group")) kv.group = 0;
  const bool searched = kv.scale == ScaleRule::mse;
  if (!sources.by_hand(key + "scale") && !kv.symmetric && !searched) kv.scale = ScaleRule::min_max;
  if (kv.symmetric && kv.scale == ScaleRule::min_max) kv.scale = ScaleRule::no_clip;
}

void fill_scratch(ModelOptions& model, const Sources& sources) {
  if (!model.scratch()) return;
  if (!sources.by_hand("model.num_key_value_heads"))
    model.num_key_value_heads = model.num_attention_heads;
  if (!sources.by_hand("model.head_dim") && model.num_attention_heads > 0) {
    if (model.hidden_size % model.num_attention_heads != 0)
      refuse_together(sources, "model.hidden_size", "a multiple of model.num_attention_heads",
                      fmt::format("{} and {}", model.hidden_size, model.num_attention_heads),
                      "change one of them, or set model.head_dim");
    model.head_dim = model.hidden_size / model.num_attention_heads;
  }
}

/// Defaults that follow from other keys.
void fill(Recipe& recipe, Sources& sources) {
  const Recipe defaults;
  fill_quantize(recipe, sources);
  fill_kv_cache(recipe.quantize.kv_cache, sources);
  fill_scratch(recipe.model, sources);

  DistillOptions& distill = recipe.distill;
  drop_outdated(sources, recipe, defaults, {"distill.kl", "distill.cross_entropy"},
                {"distill.teacher"});
  const bool wants_teacher = sources.by_hand("distill.kl") && distill.kl > 0;
  if (wants_teacher && !sources.by_hand("distill.teacher"))
    distill.teacher.word = TeacherKind::self;
  const bool teacher = distill.teacher.word != TeacherKind::none;
  if (!sources.by_hand("distill.kl")) distill.kl = teacher ? 1.0 : 0.0;
  if (!sources.by_hand("distill.cross_entropy")) distill.cross_entropy = teacher ? 0.0 : 1.0;

  if (!sources.by_hand("adapter.base") && recipe.dtype == DType::f32)
    recipe.adapter.base = BaseChoice::none;

  ScheduleOptions& schedule = recipe.train.schedule;
  if (schedule.kind == ScheduleKind::wsd && !sources.by_hand("train.schedule.decay"))
    schedule.decay = recipe.train.steps / 5;
  if (!sources.by_hand("evaluate.context")) recipe.evaluate.context = recipe.data.sequence;
  drop_outdated(sources, recipe, defaults, {"evaluate.metrics"}, {"data.eval"});
  if (!sources.by_hand("evaluate.metrics") && !recipe.data.eval.empty())
    recipe.evaluate.metrics = {Metric::perplexity};
}

/// Keys that have a meaning only beside others, and keys that must be there.
void check_conditions(Recipe& recipe, Sources& sources) {
  const Recipe defaults;
  for (const auto& field : recipe_fields()) {
    const bool holds = field.when.holds == nullptr || field.when.holds(recipe);
    if (!holds && sources.by_hand(field.key)) {
      if (!sources.outdated(field.key, field.when.deciders))
        refuse_together(sources, field.key, fmt::format("this key only where {}", field.when.means),
                        yaml_value(field, field.get(recipe)),
                        fmt::format("remove it, or change {}", field.when.deciders.front()));
      sources.drop(field.key);
      set_from(defaults, recipe, field);
      if (field.key == "quantize.weights.group") recipe.quantize.weights.group_by_hand = false;
    }
    if (holds && field.need == Need::required && !sources.by_hand(field.key)) {
      const std::string also =
          field.when.means ? fmt::format(" where {}", field.when.means) : std::string();
      refuse("{}: expected {}{}, got nothing; {}", located(sources.where(field.key), field.key),
             expectation(field), also, "it means: " + field.help);
    }
  }
}

struct Grid {
  std::string prefix;
  SymmetricRange range;
  ScaleRule scale;
  int64_t bits;
};

/// A range without 0 is for weights: activations and keys are often 0.
void check_has_zero(const Grid& grid, bool symmetric, const Sources& sources) {
  if (symmetric && grid.range == SymmetricRange::stretched)
    refuse_together(sources, grid.prefix + ".range", "strict or full", "stretched",
                    "its levels leave out 0, which weights alone can do without: change it");
}

/// A scale rule that its grid cannot have.
void check_scale_rule(const Grid& grid, bool symmetric, const Sources& sources) {
  const std::string key = grid.prefix + ".scale";
  const std::string got = fmt::format("{} with {}.symmetric: {}",
                                      yaml_value(*find_field(key), FieldValue(word_of(grid.scale))),
                                      grid.prefix, symmetric);
  if (!symmetric && grid.scale != ScaleRule::min_max && grid.scale != ScaleRule::mse)
    refuse_together(sources, key, "min_max or mse for a grid with a zero point", got,
                    "change one of the two");
  if (symmetric && grid.range == SymmetricRange::stretched && grid.scale != ScaleRule::amax &&
      grid.scale != ScaleRule::mse)
    refuse_together(sources, key, fmt::format("amax or mse with {}.range: stretched", grid.prefix),
                    word_of(grid.scale), "change one of the two");
  if (symmetric && grid.scale == ScaleRule::signed_max && grid.range != SymmetricRange::full)
    refuse_together(sources, key, fmt::format("{}.range: full with signed_max", grid.prefix),
                    "strict", "change one of the two");
}

/// Grids whose scale cannot be trained.
void check_trained_scales(const Recipe& recipe, const Sources& sources) {
  const WeightQuant& weights = recipe.quantize.weights;
  if (weights.rounding != Rounding::lsq) return;
  if (recipe.adapter.any())
    refuse_together(sources, "quantize.weights.rounding", "nearest beside an adapter", "lsq",
                    "the grid follows the merged weights, whose scales are not trained: change one "
                    "of the two");
  if (!weights.symmetric && weights.offset == Offset::minimum)
    refuse_together(sources, "quantize.weights.rounding",
                    "nearest where quantize.weights.offset is minimum", "lsq",
                    "a minimum that stays where it started would not fit the trained scale: take "
                    "a symmetric grid, or offset: zero_point");
  if (!recipe.train.trainable.empty())
    refuse_together(sources, "train.trainable", "no list where quantize.weights.rounding is lsq",
                    recipe.train.trainable.front(),
                    "scales are trained beside their weights, all of them: change one of the two");
  const bool by_rule = weights.scale_init == ScaleInit::rule;
  if (by_rule && (weights.scale == ScaleRule::signed_max || weights.scale == ScaleRule::mse_signed))
    refuse_together(sources, "quantize.weights.rounding", "a rule with positive scales beside lsq",
                    fmt::format("quantize.weights.scale {}", word_of(weights.scale)),
                    "set quantize.weights.scale: mse, or quantize.weights.scale_init: lsq");
  if (recipe.train.steps > 0 && recipe.train.learning_rate == 0.0 && weights.scale_lr > 0.0)
    refuse_together(sources, "quantize.weights.scale_lr", "0 where train.learning_rate is 0",
                    fmt::format("{}", weights.scale_lr),
                    "scales follow the schedule of the weights: give those a rate too");
  if (!by_rule && !weights.symmetric)
    refuse_together(sources, "quantize.weights.scale_init",
                    "rule where quantize.weights.symmetric is off", "lsq",
                    "LSQ's start is that of a grid around 0: change one of the two");
}

/// A key that the form of codes leaves no choice.
void check_forms(const Recipe& recipe, const Sources& sources) {
  const auto demand = [&](const std::string& key, bool holds, const std::string& expected,
                          const std::string& form_key, Form form) {
    if (!holds)
      refuse_together(sources, key,
                      fmt::format("{} with {}: {}", expected, form_key, word_of(form)),
                      yaml_value(*find_field(key), find_field(key)->get(recipe)),
                      fmt::format("remove it, or set {}: integer", form_key));
  };
  const WeightQuant& weights = recipe.quantize.weights;
  const std::string w = "quantize.weights.", a = "quantize.activations.";
  if (weights.bits && weights.form != Form::integer) {
    const auto want = [&](const char* name, bool holds, const std::string& expected) {
      demand(w + name, holds, expected, w + "form", weights.form);
    };
    const bool e4m3 = weights.form == Form::e4m3;
    const QuantSpec grid = weights.form == Form::q4_k ? q4_k_grid() : q6_k_grid();
    const QuantSpec spec = weights.spec();
    want("bits", spec.bits == (e4m3 ? 8 : grid.bits), fmt::format("{}", e4m3 ? 8 : grid.bits));
    want("per", e4m3 ? spec.per != Per::group : spec.per == grid.per,
         e4m3 ? "channel or tensor" : "group");
    want("symmetric", weights.symmetric == (e4m3 || grid.symmetric()),
         e4m3 || grid.symmetric() ? "true" : "false");
    want("scale", spec.rule == (e4m3 ? ScaleRule::amax : grid.rule),
         word_of(e4m3 ? ScaleRule::amax : grid.rule));
    want("rounding", weights.rounding == Rounding::nearest, "nearest");
    if (e4m3) {
      want("range", weights.range != SymmetricRange::stretched, "strict or full");
    } else {
      want("group", spec.group == grid.group, fmt::format("{}", grid.group));
      if (grid.symmetric())
        want("range", spec.range == grid.range, "full");
      else
        want("offset", spec.range == grid.range, "minimum");
      want("scale_type", spec.scale_type == grid.scale_type, "f16");
    }
  }
  const ActivationQuant& activations = recipe.quantize.activations;
  if (!activations.bits || activations.form == Form::integer) return;
  if (activations.form != Form::e4m3)
    refuse_together(sources, a + "form", "integer or e4m3", word_of(activations.form),
                    "such super-blocks are for weights alone");
  const auto want = [&](const char* name, bool holds, const std::string& expected) {
    demand(a + name, holds, expected, a + "form", activations.form);
  };
  want("bits", *activations.bits == 8, "8");
  want("symmetric", activations.symmetric, "true");
  want("scale", activations.scale == ScaleRule::amax, "amax");
  want("dynamic", activations.dynamic, "true");
}

void check_quantize(const Recipe& recipe, const Sources& sources) {
  check_forms(recipe, sources);
  const auto& [weights, activations] =
      std::tie(recipe.quantize.weights, recipe.quantize.activations);
  if (weights.bits) {
    if (weights.per == Per::group && weights.group == 0)
      refuse_together(sources, "quantize.weights.per", "quantize.weights.group beside group",
                      "no group", "set quantize.weights.group, for example to 32");
    check_scale_rule({"quantize.weights", weights.range, weights.scale, *weights.bits},
                     weights.symmetric, sources);
    if (weights.rounding == Rounding::ggml && recipe.train.steps > 0)
      refuse_together(sources, "quantize.weights.rounding", "nearest where train.steps is above 0",
                      "ggml",
                      "ggml's rule is for models that are not trained: change one of the two");
    check_trained_scales(recipe, sources);
    if (!weights.symmetric && weights.offset == Offset::minimum && weights.form == Form::integer &&
        weights.scale != ScaleRule::min_max)
      refuse_together(sources, "quantize.weights.scale",
                      "min_max where quantize.weights.offset is minimum", word_of(weights.scale),
                      "change one of the two");
  }
  if (activations.bits) {
    const Grid grid{"quantize.activations", activations.range, activations.scale,
                    *activations.bits};
    check_has_zero(grid, activations.symmetric, sources);
    check_scale_rule(grid, activations.symmetric, sources);
    if (!activations.dynamic && activations.per != ActivationPer::tensor)
      refuse_together(sources, "quantize.activations.per",
                      "tensor where quantize.activations.dynamic is off", word_of(activations.per),
                      "calibrated scales cannot follow single tokens: change one of the two");
    if (activations.per == ActivationPer::group && activations.group == 0)
      refuse_together(sources, "quantize.activations.per",
                      "quantize.activations.group beside group", "no group",
                      "set quantize.activations.group, for example to 32");
  }
  const KvCacheQuant& kv = recipe.quantize.kv_cache;
  if (kv.any()) {
    const Grid grid{"quantize.kv_cache", kv.range, kv.scale, kv.bits};
    check_has_zero(grid, kv.symmetric, sources);
    check_scale_rule(grid, kv.symmetric, sources);
    if (kv.per == KvPer::group && kv.group == 0)
      refuse_together(sources, "quantize.kv_cache.per", "quantize.kv_cache.group beside group",
                      "no group", "set quantize.kv_cache.group, for example to 32");
  }
  if (recipe.quantize.any() && recipe.quantize.include.empty())
    refuse_together(sources, "quantize.include", "at least one matrix to quantize", "an empty list",
                    "name some, or set quantize.preset: none");
}

/// Bits of single matrices: of grids whose form leaves them a choice.
void check_widths(const Recipe& recipe, const Sources& sources) {
  const QuantizeOptions& quantize = recipe.quantize;
  const AutoBits& automatic = quantize.auto_bits;
  const auto widths = possible_widths(quantize);
  const bool overridden = std::any_of(widths.begin(), widths.end(), [](const PossibleWidth& width) {
    return width.key == "quantize.overrides";
  });
  const std::string budget = "quantize.auto_bits.budget";
  const auto refuse_budget = [&](const std::string& where, const std::string& advice) {
    refuse_together(sources, budget, "none " + where, fmt::format("{}", *automatic.budget), advice);
  };
  if ((automatic.any() || overridden) && quantize.weights.form != Form::integer) {
    const std::string form = word_of(quantize.weights.form);
    const std::string where = fmt::format("where quantize.weights.form is {}", form);
    const std::string advice = "such codes have one width: choose a preset of integers";
    if (automatic.any()) refuse_budget(where, advice);
    refuse_together(sources, "quantize.overrides", "only PATTERN=none " + where,
                    yaml_value(*find_field("quantize.overrides"),
                               find_field("quantize.overrides")->get(recipe)),
                    advice);
  }
  if (!automatic.any()) return;
  if (automatic.candidates.size() < 2)
    refuse_together(sources, "quantize.auto_bits.candidates", "at least two",
                    yaml_value(*find_field("quantize.auto_bits.candidates"),
                               find_field("quantize.auto_bits.candidates")->get(recipe)),
                    "name another one, or set quantize.weights.bits alone");
  if (quantize.weights.rounding == Rounding::ggml)
    refuse_budget("where quantize.weights.rounding is ggml",
                  "ggml's rule is one of a type, not of a width: take rounding: nearest");
  if (recipe.model.scratch())
    refuse_budget("where model is scratch", "an untrained model has nothing to measure");
  if (recipe.adapter.any())
    refuse_budget("beside an adapter",
                  "choose in a run without one (train.steps: 0 will do), and write what it chose "
                  "into quantize.overrides");
}

void check_solver(const Recipe& recipe, const Sources& sources) {
  const QuantizeOptions& quantize = recipe.quantize;
  if (!quantize.solved()) {
    const auto& trainable = recipe.train.trainable;
    if (std::find(trainable.begin(), trainable.end(), "scales") != trainable.end())
      refuse_together(sources, "train.trainable",
                      "scales only where quantize.solver.kind is gptq or awq", "scales",
                      "other grids follow from the weights: choose a solver, or remove it");
    return;
  }
  const std::string kind = word_of(quantize.solver.kind);
  if (quantize.weights.form != Form::integer)
    refuse_together(
        sources, "quantize.solver.kind",
        fmt::format("rtn where quantize.weights.form is {}", word_of(quantize.weights.form)), kind,
        "it solves for integers with a scale of their own: change one of the two");
  if (quantize.weights.rounding != Rounding::nearest)
    refuse_together(sources, "quantize.weights.rounding",
                    fmt::format("nearest where quantize.solver.kind is {}", kind),
                    word_of(quantize.weights.rounding),
                    "the solver chooses the codes and their scales: change one of the two");
  if (recipe.adapter.any() && recipe.adapter.base != BaseChoice::none &&
      recipe.adapter.base != BaseChoice::bf16)
    refuse_together(sources, "quantize.solver.kind", "rtn where adapter.base is packed in few bits",
                    kind, "set adapter.base: bf16; its matrices then lie on the solved grid");
  if (recipe.adapter.any() && recipe.adapter.from.word == AdapterStart::path)
    refuse_together(sources, "quantize.solver.kind", "rtn where adapter.from is a directory", kind,
                    "the solver looks at the base alone: start with a fresh adapter");
  if (quantize.solver.kind == SolverKind::gptq && quantize.solver.actorder == ActOrder::group) {
    if (quantize.weights.per != Per::group)
      refuse_together(sources, "quantize.solver.actorder",
                      "none or static where quantize.weights.per is not group", "group",
                      "there are no groups to order: take static");
    for (const ExportFormat format : recipe.exports)
      if (format != ExportFormat::gptq && format != ExportFormat::hf &&
          format != ExportFormat::hf_master && format != ExportFormat::peft)
        refuse_together(sources, "quantize.solver.actorder",
                        fmt::format("none or static where export lists {}", word_of(format)),
                        "group",
                        "its groups are runs of columns; take static, or export to gptq alone");
  }
  if (quantize.solver.kind != SolverKind::awq) return;
  if (recipe.adapter.any())
    refuse_together(sources, "quantize.solver.kind", "rtn or gptq beside an adapter", kind,
                    "awq scales norms and weights of the frozen base: solve in a run without an "
                    "adapter and start from its export/hf-master");
  if (quantize.smooth.alpha.mode != SmoothMode::off)
    refuse_together(sources, "quantize.solver.kind",
                    "rtn or gptq where quantize.smooth.alpha is set", kind,
                    "both scale the same channels: remove one of the two");
  if (quantize.activations.bits && !quantize.activations.dynamic)
    refuse_together(sources, "quantize.solver.kind",
                    "rtn or gptq where quantize.activations.dynamic is off", kind,
                    "its scaling would move the calibrated ranges: change one of the two");
}

void check_rotation(Recipe& recipe, Sources& sources) {
  QuantizeOptions& quantize = recipe.quantize;
  if (!quantize.rotation.any()) return;
  const std::string kind = word_of(quantize.rotation.kind);
  const auto refuse_kind = [&](const std::string& where, const std::string& advice) {
    refuse_together(sources, "quantize.rotation.kind", "none " + where, kind, advice);
  };
  if (!quantize.any()) {
    if (!sources.outdated("quantize.rotation.kind", {"quantize"}))
      refuse_kind("where nothing is quantized",
                  "a rotation alone changes nothing: set quantize.preset, or remove the key");
    sources.drop("quantize.rotation.kind");
    quantize.rotation = {};
    return;
  }
  if (recipe.model.scratch())
    refuse_kind("where model is scratch", "a new model has no outliers to spread: remove the key");
  if (recipe.adapter.any())
    refuse_kind("beside an adapter",
                "it would turn the frozen base: rotate in a run without an adapter (online: false) "
                "and start from its export/hf-master");
  if (!quantize.rotation.online) return;
  const auto refuse_online = [&](const std::string& where, const std::string& advice) {
    refuse_together(sources, "quantize.rotation.online", "false " + where, "true", advice);
  };
  if (!recipe.exports.empty())
    refuse_online(
        fmt::format("where export lists {}", word_of(recipe.exports.front())),
        "nothing that reads that format rotates inputs of down_proj (or queries and keys) "
        "as it runs: set it to false, or remove the format");
  if (quantize.smooth.alpha.mode != SmoothMode::off)
    refuse_online("where quantize.smooth.alpha is set",
                  "factors folded into up_proj do not reach down_proj through a rotation: change "
                  "one of the two");
  if (quantize.solved() && quantize.solver.kind == SolverKind::awq)
    refuse_online("where quantize.solver.kind is awq",
                  "factors folded into up_proj do not reach down_proj through a rotation: change "
                  "one of the two");
}

void check_adapter(const Recipe& recipe, const Sources& sources) {
  const AdapterOptions& adapter = recipe.adapter;
  if (!adapter.any()) return;
  if (recipe.model.scratch())
    refuse_together(sources, "adapter.kind", "none where model is scratch",
                    yaml_value(*find_field("adapter.kind"), FieldValue(word_of(adapter.kind))),
                    "adapters need a trained model below them: name one in model");
  if (adapter.target_modules.empty())
    refuse_together(sources, "adapter.target_modules", "at least one matrix", "an empty list",
                    "name some, such as [q_proj, v_proj], or all-linear");
  if (adapter.dropout > 0 && recipe.quantize.any())
    refuse_together(sources, "adapter.dropout", "0 where the merged weights are quantized",
                    fmt::format("{}", adapter.dropout),
                    "the grid is that of W + s B A, whose inputs no dropout can tell apart: set it "
                    "to 0, or quantize.preset: none");
  if (recipe.quantize.smooth.alpha.mode != SmoothMode::off)
    refuse_together(sources, "quantize.smooth.alpha", "none beside an adapter",
                    yaml_value(*find_field("quantize.smooth.alpha"),
                               find_field("quantize.smooth.alpha")->get(recipe)),
                    "smoothing would change the frozen base: smooth in a run without an adapter "
                    "and start from its export/hf-master");
}

void check_scratch(const ModelOptions& model, const Sources& sources) {
  if (!model.scratch()) return;
  if (model.num_attention_heads % model.num_key_value_heads != 0)
    refuse_together(sources, "model.num_key_value_heads", "a divisor of model.num_attention_heads",
                    fmt::format("{} and {}", model.num_key_value_heads, model.num_attention_heads),
                    "change one of them");
  if (model.head_dim % 2 != 0)
    refuse_together(sources, "model.head_dim", "an even number, for rotary positions",
                    fmt::format("{}", model.head_dim), "change it, or the number of heads");
}

void check_train(const Recipe& recipe, const Sources& sources) {
  const TrainOptions& train = recipe.train;
  if (train.micro_batch > 0 && train.batch % train.micro_batch != 0)
    refuse_together(sources, "train.micro_batch", "a divisor of train.batch",
                    fmt::format("{} and {}", train.micro_batch, train.batch),
                    "change one of the two");
  const DistillOptions& distill = recipe.distill;
  const bool teacher = distill.teacher.word != TeacherKind::none;
  if (!teacher && distill.kl > 0)
    refuse_together(sources, "distill.kl", "0 where distill.teacher is none",
                    fmt::format("{}", distill.kl),
                    "set distill.teacher: self, or remove distill.kl");
  if (distill.kl == 0 && distill.cross_entropy == 0)
    refuse_together(sources, "distill.cross_entropy", "above 0 where distill.kl is 0", "0",
                    "give one of the two a weight");
  if (recipe.model.scratch() && distill.teacher.word == TeacherKind::self)
    refuse_together(sources, "distill.teacher", "none or a path where model is scratch", "self",
                    "an untrained model has nothing to teach");

  const QuantizeOptions& quantize = recipe.quantize;
  std::string reader;
  if (train.steps > 0)
    reader = "train.steps is above 0";
  else if (quantize.smooth.alpha.mode != SmoothMode::off && quantize.activations.bits)
    reader = "quantize.smooth is set";
  else if (quantize.activations.bits && !quantize.activations.dynamic)
    reader = "quantize.activations.dynamic is off";
  else if (quantize.solved())
    reader = fmt::format("quantize.solver.kind is {}", word_of(quantize.solver.kind));
  else if (quantize.auto_bits.any())
    reader = "quantize.auto_bits is set";
  if (!reader.empty() && recipe.data.train.empty())
    refuse_together(sources, "data.train", fmt::format("a list of files where {}", reader), "none",
                    "name the training text");
}

/// E10: the run must not write into the model it reads.
void check_out(const Recipe& recipe, const Sources& sources) {
  namespace fs = std::filesystem;
  if (recipe.model.scratch()) return;
  std::error_code error;
  const auto place = [&](const std::string& path) {
    fs::path out = fs::weakly_canonical(fs::absolute(path, error), error);
    return out.has_filename() ? out : out.parent_path();
  };
  const fs::path model = place(recipe.model.from.path), out = place(recipe.out);
  const auto inside = std::mismatch(model.begin(), model.end(), out.begin(), out.end());
  if (!model.empty() && inside.first == model.end())
    refuse_together(sources, "out", "a directory outside the model's", shown(recipe.out),
                    "choose another one");
}

/// A grid that a format of `export` cannot hold.
void check_targets(const Recipe& recipe, const Sources& sources) {
  for (const ExportFormat format : recipe.exports) {
    const auto found = misfit(recipe.quantize, format);
    if (!found) continue;
    if (sources.by_hand(found->key))
      refuse_together(sources, found->key,
                      fmt::format("{} where export lists {}", found->expected, word_of(format)),
                      found->got, "change it, or remove the format");
    if (found->key.starts_with("quantize.auto_bits"))
      refuse_together(
          sources, "quantize.auto_bits.budget",
          fmt::format("{} {} where export lists {}", found->key, found->expected, word_of(format)),
          found->got, "change them, or remove the format");
    // Nobody wrote that key: the preset and the list of formats do not go together.
    refuse_together(sources, "export",
                    fmt::format("{} {} beside {}", found->key, found->expected, word_of(format)),
                    fmt::format("{} of preset {}", found->got, recipe.quantize.preset),
                    "choose a preset for that target, or remove the format");
  }
}

void check_outputs(Recipe& recipe, Sources& sources) {
  if (!bytes_of_size(recipe.max_shard_size))
    refuse_together(sources, "max_shard_size", "a size such as 500MB or 5GB",
                    shown(recipe.max_shard_size), "write a number and KB, MB or GB");
  if (recipe.split_max_size != "none" && !bytes_of_size(recipe.split_max_size))
    refuse_together(sources, "split_max_size", "none, or a size such as 500MB or 5GB",
                    shown(recipe.split_max_size), "write a number and KB, MB or GB");
  for (const Metric metric : {Metric::perplexity, Metric::agreement})
    if (recipe.evaluate.has(metric) && recipe.data.eval.empty())
      refuse_together(sources, "evaluate.metrics", "data.eval beside " + word_of(metric), "no text",
                      "set data.eval, or remove it from evaluate");
  if (recipe.evaluate.has(Metric::agreement) && recipe.model.scratch())
    refuse_together(sources, "evaluate.metrics", "a trained model beside agreement",
                    "model: scratch", "remove it: there is nothing to agree with");
  auto& exports = recipe.exports;
  const auto adapter = std::find(exports.begin(), exports.end(), ExportFormat::peft);
  if (adapter != exports.end() && !recipe.adapter.any()) {
    if (!sources.outdated("export", {"adapter"}))
      refuse_together(sources, "export", "an adapter for peft", "adapter.kind: none",
                      "set adapter.kind: lora or dora, or remove the format");
    exports.erase(adapter);
    recipe.warnings.push_back("export: peft left out: there is no adapter");
  }
  for (const ExportFormat format :
       {ExportFormat::compressed_tensors, ExportFormat::gptq, ExportFormat::awq}) {
    const auto integers = std::find(exports.begin(), exports.end(), format);
    if (integers == exports.end() || recipe.quantize.weights.bits) continue;
    const std::string name = word_of(format);
    if (!sources.outdated("export", {"quantize"}))
      refuse_together(sources, "export", fmt::format("quantized weights for {}", name),
                      "quantize.weights.bits: none", "set quantize.preset, or remove the format");
    exports.erase(integers);
    recipe.warnings.push_back(
        fmt::format("export: {} left out: the weights are not quantized", name));
  }
}

/// What is legal, but perhaps not what was meant.
void add_warnings(Recipe& recipe, const Sources& sources) {
  auto& lines = recipe.warnings;
  const QuantizeOptions& quantize = recipe.quantize;
  const TrainOptions& train = recipe.train;
  if (quantize.weights.bits && !quantize.weights.spec().in_super_blocks()) {
    const WeightQuant& weights = quantize.weights;
    for (const auto& [bits, key] : possible_widths(quantize))
      if (bits != 8 && bits != 4 && bits != 2)
        lines.push_back(fmt::format(
            "{}: no deployment format stores {} bits; it can be trained and measured, not exported "
            "as integers",
            key, bits));
    if (weights.per == Per::group && weights.group % 32 != 0)
      lines.push_back(fmt::format(
          "quantize.weights.group: no deployment format has groups of {}; take a multiple of 32",
          weights.group));
  }
  for (const ExportFormat format : recipe.exports)
    for (const std::string& line : target_warnings(quantize, format)) lines.push_back(line);
  const auto& exports = recipe.exports;
  if (std::find(exports.begin(), exports.end(), ExportFormat::gguf) != exports.end() &&
      quantize.activations.bits && !as_llama_cpp_computes(quantize))
    lines.push_back(
        quantize.weights.bits && quantize.weights.spec().in_super_blocks()
            ? "quantize.activations: llama.cpp computes with int8 in blocks of 256, scales in f32 "
              "(the activations of gguf_q4_k), whatever was trained"
            : "quantize.activations: llama.cpp computes with int8 in blocks of 32, scales in f16 "
              "(the activations of the gguf presets), whatever was trained");
  if (quantize.any() && train.steps > 0 && train.warmup_bf16 >= train.steps)
    lines.push_back(
        fmt::format("train.warmup_bf16: {} of {} steps, so no step trains with quantization",
                    train.warmup_bf16, train.steps));
  if (quantize.weights.bits && quantize.weights.rounding == Rounding::stochastic &&
      train.steps == 0)
    lines.push_back(
        "quantize.weights.rounding: stochastic has no effect, nothing is trained; evaluation and "
        "export round to nearest");
  if (!quantize.any() && sources.by_hand("train.warmup_bf16") && train.warmup_bf16 > 0)
    lines.push_back("train.warmup_bf16: has no effect, nothing is quantized");
  if (!quantize.activations.bits && quantize.smooth.alpha.mode != SmoothMode::off)
    lines.push_back("quantize.smooth: has no effect, activations are not quantized");
  if (train.steps > 0 && train.schedule.warmup > train.steps)
    lines.push_back(
        fmt::format("train.schedule.warmup: {} of {} steps, so the learning rate never "
                    "reaches its height",
                    train.schedule.warmup, train.steps));
  for (const auto& key : sources.dropped())
    lines.push_back(fmt::format("{}: {}: has no effect any more, an option changed what it needs",
                                sources.where(key), key));
}

}  // namespace

bool EvaluateOptions::has(Metric metric) const {
  return std::find(metrics.begin(), metrics.end(), metric) != metrics.end();
}

bool EvaluateOptions::has_task() const {
  return std::any_of(metrics.begin(), metrics.end(), is_task);
}

Recipe resolve(const Assignments& written, const std::string& name) {
  Recipe recipe;
  const auto read = [&](const std::string& key) {
    const auto found = written.find(key);
    if (found == written.end()) return;
    const Field& field = *find_field(key);
    field.set(recipe, parse_value(field, found->second.node));
  };
  read("quantize.preset");
  apply_preset(preset_named(recipe.quantize.preset), recipe.quantize);
  KvCacheQuant& kv = recipe.quantize.kv_cache;
  read("quantize.kv_cache.type");
  read("quantize.kv_cache.bits");
  if (written.contains("quantize.kv_cache.bits") && !written.contains("quantize.kv_cache.type"))
    kv.type = kv.bits == 4 ? KvType::int4 : KvType::int8;
  kv = kv_cache_of(kv.type);
  for (const auto& field : recipe_fields()) read(field.key);

  Sources sources(written, name);
  fill(recipe, sources);
  check_conditions(recipe, sources);
  check_scratch(recipe.model, sources);
  check_quantize(recipe, sources);
  check_widths(recipe, sources);
  check_solver(recipe, sources);
  check_rotation(recipe, sources);
  check_adapter(recipe, sources);
  check_train(recipe, sources);
  check_outputs(recipe, sources);
  check_targets(recipe, sources);
  check_out(recipe, sources);
  add_warnings(recipe, sources);
  return recipe;
}

}  // namespace qat::recipe
