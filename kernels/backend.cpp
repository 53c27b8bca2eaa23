#include "kernels/backend.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "kernels/cuda_library.h"

namespace qat {
namespace {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int threads) : stream_(threads) {}
  const char* name() const override { return "cpu"; }
  std::string description() const override {
    return std::string(cpu_isa()) + ", " + std::to_string(stream_.threads()) + " threads";
  }
  const KernelTable& kernels() const override { return cpu_kernels(); }
  Stream& stream() override { return stream_; }
  std::byte* allocate(size_t bytes) override { return allocate_host(bytes); }
  void release(std::byte* memory, size_t bytes) override { release_host(memory, bytes); }
  Memory memory() const override {
    const auto page = size_t(sysconf(_SC_PAGESIZE));
    return {size_t(sysconf(_SC_AVPHYS_PAGES)) * page, size_t(sysconf(_SC_PHYS_PAGES)) * page};
  }

 private:
  Stream stream_;
};

size_t mapped_bytes(size_t bytes) {
  return std::max<size_t>(bytes, 1);
}

/// Beside the program's folder as it is built, else where the system looks for libraries.
void* open_library() {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  std::string folder(path.data(), size_t(std::max<ssize_t>(length, 0)));
  folder = folder.substr(0, folder.rfind('/') + 1);
  for (const std::string& name : {folder + "../lib/libqat_cuda.so", std::string("libqat_cuda.so")})
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  return nullptr;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return std::make_unique<CpuBackend>(threads);
}

// Anonymous mappings: zero-filled, page aligned, given back at once, and large ones use huge pages.
std::byte* allocate_host(size_t bytes) {
  const size_t mapped = mapped_bytes(bytes);
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  if (mapped >= (4u << 20)) madvise(memory, mapped, MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

void release_host(std::byte* memory, size_t bytes) {
  munmap(memory, mapped_bytes(bytes));
}

CudaBackend open_cuda_backend() {
  // Never closed: its kernels may be running while the process ends.
  static void* library = open_library();
  if (library == nullptr) {
    const char* error = dlerror();
    return {nullptr, std::string("the CUDA library cannot be opened: ") +
                         (error ? error : "unknown") + " (it is built where CMake finds nvcc)"};
  }
  const auto open = reinterpret_cast<OpenCuda*>(dlsym(library, kOpenCuda));
  if (open == nullptr) return {nullptr, "libqat_cuda.so is not of this program"};
  std::array<char, 512> reason{};
  Backend* backend = open(kCudaLibraryVersion, reason.data(), reason.size());
  return {std::unique_ptr<Backend>(backend), reason.data()};
}

}  // namespace qat
