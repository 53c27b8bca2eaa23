// The cases of emulated_test.cpp on a GPU, against the CPU's kernels; twice, with the same bits.
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "tests/cuda/cases.h"

namespace qat {
namespace {

using test::Case;
using test::Memory;
using test::Result;

/// Memory of a run, from a backend.
class Pool {
 public:
  explicit Pool(Backend& backend) : backend_(backend) {}
  ~Pool() {
    for (const auto& [memory, bytes] : blocks_) backend_.release(memory, bytes);
  }
  Memory memory() {
    return Memory([this](size_t bytes) {
      std::byte* memory = backend_.allocate(bytes);
      if (memory == nullptr) throw std::runtime_error("no memory for a test");
      blocks_.emplace_back(memory, bytes);
      return memory;
    });
  }

 private:
  Backend& backend_;
  std::vector<std::pair<std::byte*, size_t>> blocks_;
};

void expect_agreement(const Case& c, Backend& cpu, Backend& gpu) {
  SCOPED_TRACE(c.name);
  Pool cpu_pool(cpu), gpu_pool(gpu);
  Memory cpu_memory = cpu_pool.memory(), memory = gpu_pool.memory(), again = gpu_pool.memory();
  const std::vector<Result> expected = c.run(cpu.kernels(), cpu.stream(), cpu_memory);
  const std::vector<Result> first = c.run(gpu.kernels(), gpu.stream(), memory);
  gpu.stream().wait();
  const std::vector<Result> second = c.run(gpu.kernels(), gpu.stream(), again);
  gpu.stream().wait();
  EXPECT_TRUE(memory.guards_intact());
  expect_agreement(first, second, expected);
}

class DeviceTest : public testing::TestWithParam<test::Family> {};

TEST_P(DeviceTest, AgreesWithTheCpu) {
  CudaBackend cuda = open_cuda_backend();
  if (!cuda.backend) GTEST_SKIP() << cuda.reason;
  const std::unique_ptr<Backend> cpu = make_cpu_backend(1);
  for (const Case& c : GetParam().cases()) expect_agreement(c, *cpu, *cuda.backend);
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceTest, testing::ValuesIn(test::kFamilies),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CudaBackendTest, GivesAGpuOrAReason) {
  const CudaBackend cuda = open_cuda_backend();
  EXPECT_EQ(cuda.backend == nullptr, !cuda.reason.empty()) << cuda.reason;
  if (!cuda.backend) GTEST_SKIP() << cuda.reason;
  EXPECT_GT(cuda.backend->memory().free, 0u);
}

}  // namespace
}  // namespace qat
