// The recipe's `backend`, or a command's --backend, made.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

/// cuda: the first GPU, or Error(refused) with the reason; auto: the GPU if there is one, else the
/// processor; cpu: the processor, with so many threads (0: as many as it has).
std::unique_ptr<Backend> make_backend(recipe::Backend wanted, int threads);

}  // namespace qat
