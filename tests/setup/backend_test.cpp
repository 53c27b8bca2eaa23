// Where a recipe's `backend` leads: to the processor, or to a refusal that says why.
#include <gtest/gtest.h>

#include <string>

#include "engine/core/error.h"
#include "recipes/run/backend.h"

namespace qat {
namespace {

TEST(BackendTest, CpuAndItsThreads) {
  const std::unique_ptr<Backend> backend = make_backend(recipe::Backend::cpu, 3);
  EXPECT_STREQ(backend->name(), "cpu");
  EXPECT_EQ(backend->stream().threads(), 3);
  EXPECT_GT(backend->memory().total, 0u);
  std::byte* memory = backend->allocate(10000);
  ASSERT_NE(memory, nullptr);
  for (int i = 0; i < 10000; ++i) ASSERT_EQ(memory[i], std::byte{0});
  backend->release(memory, 10000);
}

TEST(BackendTest, AutoAlwaysFindsOne) {
  EXPECT_NE(make_backend(recipe::Backend::automatic, 1), nullptr);
}

TEST(BackendTest, CudaWithoutAGpuIsRefusedWithTheReason) {
  if (open_cuda_backend().backend) GTEST_SKIP() << "there is a GPU";
  try {
    make_backend(recipe::Backend::cuda, 1);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    EXPECT_EQ(std::string(error.what()).rfind("backend: cuda: ", 0), 0u) << error.what();
    EXPECT_NE(std::string(error.what()).find("use auto or cpu"), std::string::npos);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << "one line";
  }
}

}  // namespace
}  // namespace qat
