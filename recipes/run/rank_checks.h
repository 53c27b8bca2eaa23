// What has to hold among the ranks of a run, and what one of them decides for all.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "engine/dist/sharding.h"
#include "engine/runtime/store.h"
#include "engine/train/checkpoint.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// Refuses a batch that does not divide over the ranks, with what would.
void check_shares(const recipe::Recipe& recipe, const Communicator& ranks);
/// Refuses ranks that were given different recipes, programs or models, before they compute
/// anything together.
void require_same_run(const recipe::Recipe& recipe, const std::string& config_json,
                      Communicator& ranks);
/// Throws Error(rank_failed), naming rank and tensor, where parameters that every rank holds whole
/// differ.
void require_same_weights(const Store& store, const Sharding& sharding, Communicator& ranks,
                          int64_t step);

/// The checkpoint that rank 0 finds, on every rank: a directory that another rank sees later (on a
/// network file system) must not send it to another step.
std::optional<Checkpoint> checkpoint_of_first(
    Communicator& ranks, const std::function<std::optional<Checkpoint>()>& find);

}  // namespace qat
