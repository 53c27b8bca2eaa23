// From what was written to a whole recipe: presets, defaults that follow from other keys, and the
// checks that need more than one key.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "recipes/run/recipe/recipe.h"
#include "recipes/run/recipe/yaml_tree.h"

namespace qat::recipe {

/// One key as it was written, by the file or by an option that came after it.
struct Assignment {
  enum class From { file, option };
  YamlNode node;
  From from = From::file;
};
using Assignments = std::map<std::string, Assignment>;

/// Fills and checks a whole recipe; `name` stands for the file in messages about absent keys. A key
/// of the file that an option has made meaningless (`--set quantize=none`) is dropped, not refused.
Recipe resolve(const Assignments& written, const std::string& name);

}  // namespace qat::recipe
