// Ranks that hang, lag or fail, in a run of several under mpirun.
#include <chrono>

#include "tests/dist/ranks.h"

namespace qat {
namespace {

Ended health(int ranks, const std::string& mode, const std::string& transport = "auto") {
  return with_ranks(ranks, program("health") + " " + mode, "QAT_MPI_TRANSPORT=" + transport);
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// The one line that says why.
std::string why(const Ended& ended) {
  EXPECT_EQ(count_of(ended.output, "health: error: "), 1u) << ended.output;
  const size_t at = ended.output.find("health: error: ");
  if (at == std::string::npos) return "";
  return ended.output.substr(at, ended.output.find('\n', at) - at);
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class RunsOn : public testing::TestWithParam<const char*> {};

// A17, B14, C3: whatever moves again is not taken for dead.
TEST_P(RunsOn, ToTheEnd) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = health(3, GetParam());
  EXPECT_EQ(ended.code, 0) << ended.output;
  EXPECT_TRUE(holds(ended.output, "done")) << ended.output;
  EXPECT_FALSE(holds(ended.output, "health: error")) << ended.output;
}
INSTANTIATE_TEST_SUITE_P(Modes, RunsOn, testing::Values("well", "sleep", "save", "jerk"),
                         [](const auto& mode) { return std::string(mode.param); });

class fault_C2 : public testing::TestWithParam<const char*> {};

TEST_P(fault_C2, StoppedRankIsNamedAndAllLeave) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = health(3, "stop", GetParam());
  EXPECT_EQ(ended.code, 6) << ended.output;
  const std::string line = why(ended);
  EXPECT_TRUE(holds(line, "rank 1 hangs: no progress for")) << ended.output;
  EXPECT_TRUE(holds(line, "at step 5, computing; its process does not run")) << ended.output;
}
TEST_P(fault_C2, RankThatComputesForEverIsNamedAndAllLeave) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = health(3, "loop", GetParam());
  EXPECT_EQ(ended.code, 6) << ended.output;
  const std::string line = why(ended);
  EXPECT_TRUE(holds(line, "rank 1 hangs: no progress for")) << ended.output;
  EXPECT_TRUE(holds(line, "at step 5, computing; run the same command again")) << ended.output;
}
INSTANTIATE_TEST_SUITE_P(Transports, fault_C2, testing::Values("window", "messages"),
                         [](const auto& way) { return std::string(way.param); });

TEST(fault_C3, SlowRankIsLogged) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = health(2, "slow");
  EXPECT_EQ(ended.code, 0) << ended.output;
  EXPECT_EQ(count_of(ended.output, "rank 1 is slow: its own part of step 10 took 0.1"), 1u)
      << ended.output;
}

TEST(fault_C4, RankThatFailsSaysSoFirstAndAllLeaveWithItsCode) {
  QAT_NEEDS_MPIRUN();
  for (const char* transport : {"window", "messages"}) {
    const Ended ended = health(3, "throw", transport);
    EXPECT_EQ(ended.code, 3) << ended.output;
    EXPECT_EQ(why(ended), "health: error: rank 1: the disk is full");
  }
}

TEST(fault_C4, WhatAllRanksFindIsSaidOnce) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = health(4, "refuse");
  EXPECT_EQ(ended.code, 2) << ended.output;
  EXPECT_EQ(why(ended), "health: error: recipe.yaml: line 3: no such key");
}

TEST(fault_C4, OfDifferentFailuresTheFirstIsSaid) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = health(3, "differ");
  EXPECT_EQ(ended.code, 2) << ended.output;
  EXPECT_TRUE(holds(why(ended), "does not like it")) << ended.output;
}

}  // namespace
}  // namespace qat
