// The GPU as a backend. Memory is managed: it lies on the device while kernels use it, and all host
// code (checkpoints, calibration, exports) reads and writes it as it is once the queue is empty.
// More than the device has is refused: a card that has to page is slower than the processor.
#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda_library.h"

namespace qat::cuda {
namespace {

constexpr size_t kKept = size_t(256) << 20;  // for the driver: not given away

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw DeviceError(std::string("GPU: ") + what + ": " + cudaGetErrorString(status));
}

class GpuBackend : public Backend {
 public:
  GpuBackend() : stream_(&context_, wait) {
    check(cudaSetDevice(0), "cannot be used");
    check(cudaGetDeviceProperties(&device_, 0), "does not say what it is");
    cudaStream_t queue = nullptr;
    check(cudaStreamCreateWithFlags(&queue, cudaStreamNonBlocking), "no queue");
    context_.queue = queue;
    void* memory = nullptr;
    check(cudaMalloc(&memory, kWorkspaceBytes), "no memory for a workspace");
    context_.workspace = static_cast<std::byte*>(memory);
    check(cudaMalloc(&memory, sizeof(DynamicMaps)), "no memory for tables");
    check(cudaMemcpy(memory, &dynamic_maps(), sizeof(DynamicMaps), cudaMemcpyHostToDevice),
          "cannot copy tables");
    context_.maps = static_cast<const DynamicMaps*>(memory);
    context_.gemms = make_gemms();
  }
  ~GpuBackend() override {
    cudaStreamSynchronize(queue());
    destroy_gemms(context_.gemms);
    cudaFree(context_.workspace);
    cudaFree(const_cast<DynamicMaps*>(context_.maps));
    cudaStreamDestroy(queue());
  }

  const char* name() const override { return "cuda"; }
  std::string description() const override {
    return std::string(device_.name) + ", " + std::to_string(device_.totalGlobalMem >> 20) + " MiB";
  }
  const KernelTable& kernels() const override { return cuda::kernels(); }
  Stream& stream() override { return stream_; }

  std::byte* allocate(size_t bytes) override {
    const size_t wanted = bytes > 0 ? bytes : 1;
    if (memory().free < wanted + kKept) return nullptr;
    void* memory = nullptr;
    if (cudaMallocManaged(&memory, wanted) != cudaSuccess) {
      cudaGetLastError();  // said by the null
      return nullptr;
    }
    cudaMemLocation here{};
    here.type = cudaMemLocationTypeDevice;
    here.id = 0;
    cudaMemAdvise(memory, wanted, cudaMemAdviseSetPreferredLocation, here);
    check(cudaMemsetAsync(memory, 0, wanted, queue()), "cannot clear memory");
    stream_.wait();
    return static_cast<std::byte*>(memory);
  }
  void release(std::byte* memory, size_t) override {
    cudaStreamSynchronize(queue());
    cudaFree(memory);
  }
  Memory memory() const override {
    Memory bytes{};
    check(cudaMemGetInfo(&bytes.free, &bytes.total), "does not say what is free");
    return bytes;
  }

 private:
  static void wait(void* context) {
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(static_cast<Context*>(context)->queue)),
          "a kernel failed");
  }
  cudaStream_t queue() const { return static_cast<cudaStream_t>(context_.queue); }

  cudaDeviceProp device_{};
  Context context_;
  Stream stream_;
};

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Why there is no GPU; empty where there is one.
std::string why_not() {
  int count = 0, driver = 0, runtime = 0;  // an error leaves them as they are
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  std::string reason = status == cudaSuccess ? "no GPU is visible" : cudaGetErrorString(status);
  reason += driver == 0 ? " (no driver" : " (driver for CUDA " + version_text(driver);
  return reason + ", runtime " + version_text(runtime) + ")";
}

}  // namespace
}  // namespace qat::cuda

extern "C" __attribute__((visibility("default"))) qat::Backend* qat_open_cuda(int version,
                                                                              char* reason,
                                                                              size_t reason_bytes) {
  std::string why;
  if (version != qat::kCudaLibraryVersion) why = "libqat_cuda.so is of another build";
  if (why.empty()) why = qat::cuda::why_not();
  if (why.empty()) {
    try {
      return new qat::cuda::GpuBackend;
    } catch (const std::exception& error) {
      why = error.what();
    }
  }
  std::snprintf(reason, reason_bytes, "%s", why.c_str());
  return nullptr;
}
