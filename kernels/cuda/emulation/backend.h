// The emulated GPU as a backend, for tests: programs of the engine run on it as they are.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace qat::cuda::emulation {

std::unique_ptr<Backend> make_backend();

}  // namespace qat::cuda::emulation
