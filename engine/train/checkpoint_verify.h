// What saving needs of loading: reading a checkpoint back to see that it is whole.
#pragma once

#include <string>

namespace qat {

/// Reads every byte of a `step-N`. Throws Error(refused) naming the file and what is wrong with it.
void verify_checkpoint(const std::string& path);

}  // namespace qat
