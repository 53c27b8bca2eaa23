// qat-train: the stages of a run, from a recipe to a deployable model and the account of what it
// lost.
#pragma once

#include <string>

#include "engine/core/error.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

enum class DryRun { no, yes };

/// Runs a recipe to its end; `command` is kept for the report. Returns Exit::ok, or
/// Exit::stopped_early after a signal. Throws Error. DryRun::yes prints what the run would do and
/// need, and touches no file.
Exit train(const recipe::Recipe& recipe, DryRun dry_run, const std::string& command);

}  // namespace qat
