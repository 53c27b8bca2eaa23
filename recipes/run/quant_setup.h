// From the recipe's `quantize` section to a plan: which linear gets which grids.
#pragma once

#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/config.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

struct QuantSetup {
  QuantPlan plan;
  std::vector<std::string> notes;  ///< matrices that fall back, for the log
};

/// A pattern of quantize.include or .exclude names a linear by the end of its path ("q_proj",
/// "mlp.down_proj") or by a glob over the whole path ("model.layers.0.*").
bool matches(const std::string& pattern, const std::string& path);

/// Refuses patterns that match nothing, layers that do not exist, and a group written by hand that
/// does not divide a matrix's rows. A preset's group that does not divide falls back to int8 rows.
QuantSetup make_quant_setup(const recipe::QuantizeOptions& quantize, const ModelConfig& config);

}  // namespace qat
