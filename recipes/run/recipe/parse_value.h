// One YAML value against one row of the field table.
#pragma once

#include <string>

#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/yaml_tree.h"

namespace qat::recipe {

/// The value of a row's member. Refuses a wrong type, word or range by the node's place and the
/// row's key; environment variables and `~` in paths are expanded.
FieldValue parse_value(const Field& field, const YamlNode& node);

}  // namespace qat::recipe
