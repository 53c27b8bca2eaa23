// From the recipe to what solvers and partial training take: which codes are chosen before
// training, which of them stay, and which parameters are trained.
#pragma once

#include <string>
#include <vector>

#include "engine/quant/adapter_plan.h"
#include "models/solve.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

SolveOptions solve_options(const recipe::QuantizeOptions& quantize);

/// What the optimizer updates: the adapters, or what train.trainable names (all where it is empty).
/// Refuses a pattern that matches nothing.
std::vector<std::string> trained_parameters(const recipe::Recipe& recipe,
                                            const AdapterPlan& adapters, const QuantPlan& plan,
                                            const ModelConfig& config);

/// Where a solver chooses codes: matrices that are not trained keep them (stored_weight, with
/// trained scales where the recipe says so), those that are trained keep the grid (stored_grid).
void mark_solved(const recipe::Recipe& recipe, const AdapterPlan& adapters,
                 const ModelConfig& config, QuantPlan& plan);

/// Removes the codes of matrices that are trained from the Store: their masters took them over.
void forget_codes_of_trained(const QuantPlan& plan, Store& store);

/// What the solver will do and need, and what is trained, for the log.
std::vector<std::string> solver_lines(const recipe::Recipe& recipe, const QuantPlan& plan,
                                      const ModelConfig& config, const KernelTable& kernels);

}  // namespace qat
