// The exports of a run: what was trained, written as it is deployed, read back and compared.
#pragma once

#include "recipes/run/finish.h"

namespace qat {

/// Writes every format the recipe asks for under export/, verifies each, and returns what
/// result.json says of them. Throws Error(not_verified).
nlohmann::json export_all(const FinishInputs& inputs);

}  // namespace qat
