// Every CUDA kernel in emulation against the CPU's: results agree, threads and blocks may run in
// any order, and nothing is written beside a tensor. See kernels/cuda/emulation/emulation.h for
// what else is watched.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/cuda/emulation/backend.h"
#include "kernels/cuda/emulation/emulation.h"
#include "tests/cuda/cases.h"

namespace qat {
namespace {

using test::Case;
using test::Memory;
using test::Result;

/// Memory of a run, aligned as a GPU's is.
class Pool {
 public:
  Memory memory() {
    return Memory([this](size_t bytes) {
      constexpr size_t kAlign = 256;
      auto* at = static_cast<std::byte*>(
          std::aligned_alloc(kAlign, (bytes + kAlign - 1) / kAlign * kAlign));
      blocks_.emplace_back(at, std::free);
      return at;
    });
  }

 private:
  std::vector<std::unique_ptr<std::byte, decltype(&std::free)>> blocks_;
};

class EmulatedTest : public testing::TestWithParam<test::Family> {};

void expect_agreement(const Case& c) {
  SCOPED_TRACE(c.name);
  Pool pool;
  const std::unique_ptr<Backend> machine = cuda::emulation::make_backend();
  const KernelTable& kernels = machine->kernels();
  Stream cpu(1);
  Stream& emulated = machine->stream();
  Memory cpu_memory = pool.memory(), forward_memory = pool.memory(),
         backward_memory = pool.memory();
  const std::vector<Result> expected = c.run(cpu_kernels(), cpu, cpu_memory);
  cuda::emulation::set_order(cuda::emulation::Order::forward);
  const std::vector<Result> forward = c.run(kernels, emulated, forward_memory);
  cuda::emulation::set_order(cuda::emulation::Order::backward);
  const std::vector<Result> backward = c.run(kernels, emulated, backward_memory);
  cuda::emulation::set_order(cuda::emulation::Order::forward);
  EXPECT_TRUE(forward_memory.guards_intact());
  expect_agreement(forward, backward, expected);
}

TEST_P(EmulatedTest, AgreesWithTheCpu) {
  for (const Case& c : GetParam().cases()) expect_agreement(c);
}

INSTANTIATE_TEST_SUITE_P(Families, EmulatedTest, testing::ValuesIn(test::kFamilies),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace qat
