// Every kernel test again under each lower instruction set: the level is chosen once a process, so
// each runs as a child of this program.
#include "kernels/cpu/isa.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace qat {
namespace {

class IsaTest : public testing::TestWithParam<const char*> {};

TEST_P(IsaTest, AllKernelTestsPass) {
  if (std::getenv("QAT_ISA") != nullptr) GTEST_SKIP() << "already a run with a lowered level";
  if (cpu::isa_named(GetParam()) >= cpu::isa()) GTEST_SKIP() << "not below this processor's level";
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  ASSERT_GT(length, 0);
  const std::string command = std::string("QAT_ISA=") + GetParam() + " '" +
                              std::string(self, size_t(length)) +
                              "' --gtest_brief=1 --gtest_filter=-*IsaTest* 2>&1";
  FILE* child = popen(command.c_str(), "r");
  ASSERT_NE(child, nullptr);
  std::string output;
  char part[4096];
  while (const size_t count = fread(part, 1, sizeof part, child)) output.append(part, count);
  // Kernels that this level lacks skip their tests; ctest would take that for this test's own word.
  for (size_t at; (at = output.find("SKIPPED")) != output.npos;) output.replace(at, 7, "skipped");
  EXPECT_EQ(pclose(child), 0) << command << '\n' << output;
}

INSTANTIATE_TEST_SUITE_P(Lowered, IsaTest,
                         testing::Values("scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16"),
                         [](const auto& info) { return std::string(info.param); });

TEST(IsaNameTest, RefusesUnknownName) {
  EXPECT_THROW(cpu::isa_named("sse9"), std::invalid_argument);
}

}  // namespace
}  // namespace qat
