// quantize.auto_bits: the bits of each matrix by measurement, before training; and after it the
// plan of a run that chose.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "engine/train/checkpoint.h"
#include "models/sensitivity.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// What there is to choose from.
struct BitChoices {
  std::map<int, QuantPlan> plans;  ///< by candidate: every matrix that may get it has it
  std::vector<WidthUnit> units;    ///< whose bits are open, in layer order
  int64_t budget = 0;              ///< of all planned weights of the layers, in bits
  int64_t weights = 0;             ///< how many those are
};

/// Refuses a budget that the narrowest candidates exceed, and a model of which no matrix has a
/// choice.
BitChoices bit_choices(const recipe::QuantizeOptions& quantize, const ModelConfig& config);

/// Bits by the path of the linear.
using BitWidths = std::map<std::string, int>;

struct ChosenBits {
  BitWidths widths;  ///< of every linear of the units; empty: stopped
  /// What was measured and chosen, for the result: budget, bits (a weight), predicted_kl (the sum
  /// of the units'), kl (measured, all together), uniform (the same of each candidate for all),
  /// units.
  nlohmann::json record;
};

/// Measures each unit at each candidate on the batches and chooses. Logs the table. The Store holds
/// the unquantized model.
ChosenBits choose_bits(const recipe::AutoBits& options, const BitChoices& choices,
                       const MeasuredModel& model, const std::vector<Batch>& batches,
                       const std::function<bool()>& stop);

/// Gives the plan's matrices their bits. Refuses widths that are not those of the choices: `from`
/// names the checkpoint they come from.
void set_widths(const BitChoices& choices, const BitWidths& widths, const std::string& from,
                QuantPlan& plan);

/// Where a checkpoint's state has them.
inline constexpr const char* kBitWidths = "bit_widths";
/// The widths in a checkpoint's state; refuses one without.
BitWidths saved_widths(const Checkpoint& checkpoint);

/// The plan of a run, with the bits that its checkpoint says were chosen.
QuantPlan plan_of_run(const recipe::Recipe& recipe, const ModelConfig& config,
                      const Checkpoint& checkpoint);

}  // namespace qat
