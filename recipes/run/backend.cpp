#include "recipes/run/backend.h"

#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/log.h"

namespace qat {
namespace {

/// Opening the library costs a start 0.1 s and more: only where a driver shows itself.
bool shows_gpu() {
  return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
}

}  // namespace

std::unique_ptr<Backend> make_backend(recipe::Backend wanted, int threads) {
  if (wanted == recipe::Backend::cuda) {
    CudaBackend cuda = open_cuda_backend();
    if (!cuda.backend) refuse("backend: cuda: {}; use auto or cpu", cuda.reason);
    return std::move(cuda.backend);
  }
  if (wanted == recipe::Backend::automatic && shows_gpu()) {
    CudaBackend cuda = open_cuda_backend();
    if (cuda.backend) return std::move(cuda.backend);
    log::info("backend: auto: the GPU is not used: {}", cuda.reason);
  }
  return make_cpu_backend(threads);
}

}  // namespace qat
