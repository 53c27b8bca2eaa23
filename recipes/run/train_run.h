// qat-train: the stages of a run, from a recipe to a deployable model and the account of what it
// lost.
#pragma once

#include <string>

#include "engine/core/error.h"
#include "engine/dist/health.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

enum class DryRun { no, yes };

/// Runs a recipe to its end, on all the ranks of `health` together; `command` is kept for the
/// report. Returns Exit::ok, or Exit::stopped_early after a signal, the same on every rank. Throws
/// Error. DryRun::yes prints what the run would do and need, and touches no file.
Exit train(const recipe::Recipe& recipe, DryRun dry_run, const std::string& command,
           RunHealth& health);

/// Machines to plan for, of models/scaling.h; gpu may be empty.
struct PaperMachines {
  int ranks = 1;
  std::string gpu, link;  ///< empty: none named; nvlink
};
/// A dry run as one of so many ranks would do it, with what the links would carry.
void plan_on_paper(const recipe::Recipe& recipe, const PaperMachines& machines);

}  // namespace qat
