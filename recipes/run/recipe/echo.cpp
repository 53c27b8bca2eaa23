// A recipe as text again: the value of every key, the hash, and the differences of two recipes.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "engine/core/error.h"
#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/presets.h"
#include "recipes/run/recipe/recipe.h"
#include "recipes/run/recipe/yaml_tree.h"

namespace qat::recipe {
namespace {

bool applies(const Field& field, const Recipe& recipe) {
  return field.when.holds == nullptr || field.when.holds(recipe);
}

std::string value_of(const Field& field, const Recipe& recipe) {
  return applies(field, recipe) ? yaml_value(field, field.get(recipe)) : "unset";
}

/// Values a preset gives are not written as if by hand: a group set by hand is treated differently.
bool from_preset(const Field& field, const Recipe& recipe) {
  if (field.key == "quantize.weights.group") return !recipe.quantize.weights.group_by_hand;
  if (!field.key.starts_with("quantize.weights.") &&
      !field.key.starts_with("quantize.activations."))
    return false;
  const Preset& preset = preset_named(recipe.quantize.preset);
  Recipe pure;
  pure.quantize.weights = preset.weights;
  pure.quantize.activations = preset.activations;
  return field.get(pure) == field.get(recipe);
}

/// Section lines that lead from the section of the line before to this key's.
std::string section_lines(const std::string& before, const std::string& key) {
  std::string out;
  for (size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', dot + 1)) {
    const std::string section = key.substr(0, dot);
    if (before.starts_with(section + ".")) continue;
    const size_t parent = section.rfind('.');
    const std::string name = section.substr(parent == std::string::npos ? 0 : parent + 1);
    const auto depth = std::count(section.begin(), section.end(), '.');
    out += fmt::format("{}{}:\n", std::string(size_t(2 * depth), ' '), name);
  }
  return out;
}

}  // namespace

std::string to_yaml(const Recipe& recipe) {
  std::string out = fmt::format("# The resolved recipe, hash {}.\n", recipe_hash(recipe));
  std::string before;
  for (const auto& field : recipe_fields()) {
    if (!applies(field, recipe)) continue;
    const auto depth = std::count(field.key.begin(), field.key.end(), '.');
    const std::string indent(size_t(2 * depth), ' ');
    const std::string name = field.key.substr(field.key.rfind('.') + 1);
    const std::string value = yaml_value(field, field.get(recipe));
    if (from_preset(field, recipe)) {
      out += fmt::format("{}# {}: {}  (quantize.preset: {})\n", indent, field.key, value,
                         recipe.quantize.preset);
      continue;
    }
    out += section_lines(before, field.key);
    out += fmt::format("{}{}: {}\n", indent, name, value);
    before = field.key;
  }
  return out;
}

std::string recipe_hash(const Recipe& recipe) {
  std::string text;
  for (const auto& field : recipe_fields())
    if (field.matters == Matters::yes)
      text += fmt::format("{}: {}\n", field.key, value_of(field, recipe));
  return fmt::format("{:016x}", XXH64(text.data(), text.size(), 0));
}

std::vector<RecipeDifference> recipe_differences(const Recipe& before, const Recipe& after,
                                                 const std::vector<std::string>& allowed) {
  std::vector<RecipeDifference> out;
  for (const auto& field : recipe_fields()) {
    if (field.matters == Matters::no) continue;
    const bool may_differ = std::any_of(allowed.begin(), allowed.end(), [&](const auto& key) {
      return field.key == key || field.key.starts_with(key + ".");
    });
    RecipeDifference difference{field.key, value_of(field, before), value_of(field, after)};
    if (!may_differ && difference.before != difference.after) out.push_back(difference);
  }
  return out;
}

void check_resumable(const Recipe& before, const Recipe& after, const std::string& run) {
  const auto differences = recipe_differences(before, after, after.resume_allow);
  if (differences.empty()) return;
  std::string changes, keys;
  for (const auto& [key, was, is] : differences) {
    changes += fmt::format("{}{}: {} -> {}", changes.empty() ? "" : ", ", key, was, is);
    keys += (keys.empty() ? "" : ", ") + key;
  }
  refuse(
      "{}: expected the recipe it was started with, got a changed one ({}); change it back, set "
      "resume_allow: [{}] to go on all the same, or write to another out",
      run, changes, keys);
}

}  // namespace qat::recipe
