#include "kernels/cuda/emulation/backend.h"

#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda_kernels.h"

namespace qat::cuda::emulation {
namespace {

class EmulatedBackend : public Backend {
 public:
  EmulatedBackend() : workspace_(kWorkspaceBytes), stream_(&context_, nullptr) {
    context_.workspace = workspace_.data();
    context_.maps = &dynamic_maps();
  }
  const char* name() const override { return "cuda"; }
  std::string description() const override { return "emulated"; }
  const KernelTable& kernels() const override { return cuda::kernels(); }
  Stream& stream() override { return stream_; }
  std::byte* allocate(size_t bytes) override { return allocate_host(bytes); }
  void release(std::byte* memory, size_t bytes) override { release_host(memory, bytes); }
  Memory memory() const override { return make_cpu_backend(1)->memory(); }

 private:
  std::vector<std::byte> workspace_;
  Context context_;
  Stream stream_;
};

}  // namespace

std::unique_ptr<Backend> make_backend() {
  return std::make_unique<EmulatedBackend>();
}

}  // namespace qat::cuda::emulation
