// From the recipe's `adapter` section to a plan: which linear carries what, and how the frozen
// matrices are stored.
#pragma once

#include "engine/quant/adapter_plan.h"
#include "models/config.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// Empty without an adapter. Refuses patterns that match nothing, and a PEFT directory of another
/// kind than the recipe's or for another model.
AdapterPlan make_adapter_plan(const recipe::Recipe& recipe, const ModelConfig& config);

/// Which matrices a base keeps in few bits: every linear of the layers, for int8, nf4 and fp4.
std::map<std::string, PackedSpec> packed_base(recipe::BaseChoice base, bool double_quant,
                                              const ModelConfig& config);

/// "lora of rank 16 on 210 linears, nf4 base".
std::string describe(const AdapterPlan& plan, recipe::BaseChoice base);

}  // namespace qat
