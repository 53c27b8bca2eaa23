// Presets: how a deployment target quantizes, by name. A key set by hand overrides one field.
#pragma once

#include <string>
#include <vector>

#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {

struct Preset {
  std::string name, target, description;
  WeightQuant weights;
  ActivationQuant activations;
  TableGrid tables = TableGrid::none;  ///< of embeddings and head
  std::string stands_for = {};         ///< the target's preset, of a short name
};

const std::vector<Preset>& presets();
/// Refuses nothing: the name was checked against the table's words.
const Preset& preset_named(const std::string& name);
std::vector<std::string> preset_names();
/// Sets the preset and everything it decides.
void apply_preset(const Preset& preset, QuantizeOptions& quantize);

}  // namespace qat::recipe
