// The rewrite that makes a training graph one rank's part of a run on several.
#pragma once

#include <vector>

#include "engine/dist/sharding.h"
#include "engine/passes/passes.h"

namespace qat {

/// Sums the gradients over the ranks and, by the stage, keeps this rank's rows of parameters,
/// gradients and weights only. Needs a hoisted graph; `gradients` then name the summed values.
/// What follows row by row from a dealt parameter (its cast, its codes) is computed for the own
/// rows and gathered where a whole matrix is read: in the prologue, or with ZeroStage::weights
/// before each node that reads it. A dequantized matrix is gathered as its codes and scales.
void shard(Graph& graph, std::vector<ParameterGradient>& gradients, const Sharding& sharding);

}  // namespace qat
