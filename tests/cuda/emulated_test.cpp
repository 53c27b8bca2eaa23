// Every CUDA kernel in emulation against the CPU's: results agree, threads and blocks may run in
// any order, and nothing is written beside a tensor. See kernels/cuda/emulation/emulation.h for
// what else is watched.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
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

bool is_float(DType type) {
  return type == DType::f32 || type == DType::bf16 || type == DType::f16;
}

/// The same bits; one NaN is as good as another.
void expect_same(const Result& a, const Result& b) {
  ASSERT_EQ(a.view.count(), b.view.count());
  if (std::memcmp(a.view.data, b.view.data, a.view.bytes()) == 0) return;
  const size_t size = size_of(a.view.dtype);
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < a.view.count(); ++i) {
    if (std::memcmp(a.view.data + size_t(i) * size, b.view.data + size_t(i) * size, size) == 0)
      continue;
    if (is_float(a.view.dtype) && std::isnan(test::get(a.view, i)) &&
        std::isnan(test::get(b.view, i)))
      continue;
    if (different++ == 0) first = i;
  }
  if (different > 0)
    ADD_FAILURE() << a.name << ": " << different << " of " << a.view.count()
                  << " elements differ, first [" << first << "]: " << test::get(a.view, first)
                  << " against " << test::get(b.view, first);
}

void expect_close(const Result& a, const Result& b) {
  ASSERT_EQ(a.view.count(), b.view.count());
  double difference = 0, size = 0;
  for (int64_t i = 0; i < a.view.count(); ++i) {
    const double x = test::get(a.view, i), y = test::get(b.view, i);
    ASSERT_EQ(std::isfinite(x), std::isfinite(y)) << a.name << " [" << i << "]: " << x << ", " << y;
    if (!std::isfinite(x)) continue;
    difference += (x - y) * (x - y);
    size += y * y;
  }
  EXPECT_LE(std::sqrt(difference), a.relative * std::sqrt(size)) << a.name;
}

class EmulatedTest : public testing::TestWithParam<Case> {};

TEST_P(EmulatedTest, AgreesWithTheCpu) {
  const Case& c = GetParam();
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
  ASSERT_EQ(expected.size(), forward.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    expect_same(forward[i], backward[i]);
    if (expected[i].relative == 0)
      expect_same(forward[i], expected[i]);
    else
      expect_close(forward[i], expected[i]);
  }
}

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Elementwise, EmulatedTest, testing::ValuesIn(test::elementwise_cases()),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Rows, EmulatedTest, testing::ValuesIn(test::rows_cases()), name_of_case);
INSTANTIATE_TEST_SUITE_P(Optimizer, EmulatedTest, testing::ValuesIn(test::optimizer_cases()),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Matmul, EmulatedTest, testing::ValuesIn(test::matmul_cases()),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Attention, EmulatedTest, testing::ValuesIn(test::attention_cases()),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Quantize, EmulatedTest, testing::ValuesIn(test::quantize_cases()),
                         name_of_case);

}  // namespace
}  // namespace qat
