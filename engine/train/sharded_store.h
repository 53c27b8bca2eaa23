// What a rank's Store holds of the tensors that are dealt over the ranks, and how that changes.
#pragma once

#include <optional>
#include <string>

#include "engine/dist/sharding.h"
#include "engine/runtime/store.h"

namespace qat {

/// How a tensor of a training state is dealt: a parameter, or moments of one by their names (see
/// Optimizer). None where every rank has all of it.
std::optional<Partition> partition_of(const Sharding& sharding, const std::string& tensor);

/// Where masters are split: leaves this rank's rows of each dealt parameter in the Store.
void keep_own_rows(const Sharding& sharding, Store& store);
/// Gives every rank all rows of the masters among them again. Called by all ranks.
void gather_all_rows(const Sharding& sharding, Store& store);

}  // namespace qat
