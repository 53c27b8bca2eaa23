// Searching tensors for NaN and Inf.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace qat {

/// Index of the first NaN or Inf; -1 if there is none. Integers are always finite.
int64_t first_not_finite(ConstView view);

}  // namespace qat
