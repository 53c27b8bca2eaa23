#include <algorithm>
#include <filesystem>
#include <fstream>

#include "engine/core/error.h"
#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/recipe.h"
#include "recipes/run/recipe/resolve.h"
#include "recipes/run/recipe/suggest.h"
#include "recipes/run/recipe/yaml_tree.h"

namespace qat::recipe {
namespace {

void collect(const std::string& key, const std::string& where, const YamlNode& node,
             Assignment::From from, Assignments& out);

/// The entries of a section written as a map.
void collect_entries(const std::string& prefix, const YamlNode& map, Assignment::From from,
                     Assignments& out) {
  for (const auto& [name, where, node] : map.entries) {
    const std::string key = prefix.empty() ? name : prefix + "." + name;
    const bool dotted = name.find('.') != std::string::npos;
    if (dotted || (!find_field(key) && !find_section(key)))
      refuse("{}: expected a key of the recipe, got an unknown one; {}",
             located(where, shown_key(key)), key_advice(prefix, name));
    collect(key, where, node, from, out);
  }
}

/// One known key: a leaf, or a section as a map or in its short form.
void collect(const std::string& key, const std::string& where, const YamlNode& node,
             Assignment::From from, Assignments& out) {
  if (const Field* field = find_field(key)) {
    const auto before = out.find(field->key);
    if (before != out.end() && !field->also.empty() && before->second.from == from &&
        from == Assignment::From::file)
      refuse("{}: expected {} or {}, got both; remove one", located(where, key), field->key,
             field->also);
    out[field->key] = {node, from};
    return;
  }
  const Section& section = *find_section(key);
  if (node.kind == YamlNode::Kind::map) return collect_entries(key, node, from, out);
  if (section.short_for.empty() || node.kind == YamlNode::Kind::empty)
    refuse("{}: expected a map, got {}; indent its keys below it, or remove it",
           located(where, key), shown(node));
  out[section.short_for] = {node, from};
}

void collect_override(const RecipeOverride& option, Assignments& out) {
  if (!find_field(option.key) && !find_section(option.key)) {
    const size_t dot = option.key.rfind('.');
    std::string prefix = dot == std::string::npos ? "" : option.key.substr(0, dot);
    std::string name = option.key.substr(dot == std::string::npos ? 0 : dot + 1);
    if (!prefix.empty() && !find_section(prefix)) prefix.clear();
    refuse("{}: expected a key of the recipe, got an unknown one; {}", option.origin,
           key_advice(prefix, name));
  }
  YamlNode node;
  if (option.kind == RecipeOverride::Kind::literal) {
    node.kind = YamlNode::Kind::quoted;
    node.text = option.value;
    node.where = option.origin;
  } else {
    node = parse_yaml(option.value, {option.origin, YamlOrigin::Kind::option});
  }
  collect(option.key, option.origin, node, Assignment::From::option, out);
}

std::string read_file(const std::string& path, const std::string& name) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) refuse("{}: expected a recipe, got no such file; check the path", name);
  if (!fs::is_regular_file(status))
    refuse("{}: expected a recipe, got {}; give a YAML file", name,
           fs::is_directory(status) ? "a directory" : "something that is not a file");
  std::ifstream stream(path, std::ios::binary);
  if (!stream) refuse("{}: expected a readable recipe, got an error; check its permissions", name);
  constexpr size_t kEnough = (256 << 10) + 1;  // one more than parse_yaml takes
  std::string text(kEnough, '\0');
  stream.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(stream.gcount()));
  return text;
}

}  // namespace

RecipeOverride set_option(const std::string& argument) {
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0)
    refuse("--set: expected key=value, got {}; write for example --set train.steps=20",
           shown(argument));
  RecipeOverride option;
  option.key = argument.substr(0, equals);
  option.value = argument.substr(equals + 1);
  option.origin = "--set " + shown_key(option.key);
  return option;
}

RecipeOverride literal_option(const std::string& option, const std::string& key,
                              const std::string& value) {
  return {key, value, option, RecipeOverride::Kind::literal};
}

Recipe parse_recipe(const std::string& text, const std::string& name,
                    const std::vector<RecipeOverride>& overrides) {
  const YamlNode root = parse_yaml(text, {name, YamlOrigin::Kind::file});
  if (root.kind == YamlNode::Kind::empty)
    refuse("{}: expected a recipe, got an empty file; see --help-recipe for its keys", name);
  if (root.kind != YamlNode::Kind::map)
    refuse("{}: expected a map of keys at the top, got {}; write key: value lines", root.where,
           root.kind == YamlNode::Kind::list ? "a list" : shown(root));
  Assignments written;
  collect_entries("", root, Assignment::From::file, written);
  for (const auto& option : overrides) collect_override(option, written);
  return resolve(written, name);
}

Recipe load_recipe(const std::string& path, const std::vector<RecipeOverride>& overrides) {
  std::string name = path;  // a message stays one line whatever the file is called
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return c < ' ' || c == 0x7F; }, '?');
  return parse_recipe(read_file(path, name), name, overrides);
}

}  // namespace qat::recipe
