// Sums over ranks have the bits of a serial sum in the order of the ranks, through shared memory
// and through messages alike.
#include <set>
#include <sstream>

#include "tests/dist/ranks.h"

namespace qat {
namespace {

struct Way {
  int ranks;
  const char* transport;
};
void PrintTo(const Way& way, std::ostream* out) {
  *out << way.ranks << " ranks, " << way.transport;
}

class Collectives : public testing::TestWithParam<Way> {};

TEST_P(Collectives, AreTheSerialOnesBitForBit) {
  QAT_NEEDS_MPIRUN();
  const auto [ranks, transport] = GetParam();
  const Ended ended = with_ranks(ranks, program("collectives") + " check",
                                 std::string("QAT_MPI_TRANSPORT=") + transport);
  EXPECT_EQ(ended.code, 0) << ended.output;
}

INSTANTIATE_TEST_SUITE_P(Ranks, Collectives,
                         testing::Values(Way{1, "auto"}, Way{2, "window"}, Way{3, "window"},
                                         Way{4, "window"}, Way{2, "messages"}, Way{3, "messages"},
                                         Way{4, "messages"}),
                         [](const auto& way) {
                           return way.param.transport + std::to_string(way.param.ranks);
                         });

TEST(Collectives, HaveTheSameBitsOverEveryTransportAndNumberOfThreads) {
  QAT_NEEDS_MPIRUN();
  std::set<std::string> sums;
  for (const char* environment :
       {"QAT_MPI_TRANSPORT=window", "QAT_MPI_TRANSPORT=messages", "OMP_NUM_THREADS=3"}) {
    const Ended ended = with_ranks(3, program("collectives") + " print", environment);
    ASSERT_EQ(ended.code, 0) << ended.output;
    std::istringstream lines(ended.output);
    for (std::string line; std::getline(lines, line);)
      if (const size_t at = line.find(", sums "); at != std::string::npos)
        sums.insert(line.substr(at));
  }
  EXPECT_EQ(sums.size(), 1u);
}

TEST(Collectives, WaitAsleep) {
  QAT_NEEDS_MPIRUN();
  for (const char* transport : {"window", "messages"}) {
    const Ended ended = with_ranks(2, program("collectives") + " late",
                                   std::string("QAT_MPI_TRANSPORT=") + transport);
    EXPECT_EQ(ended.code, 0) << ended.output;
  }
}

TEST(Collectives, EndEveryRankWithTheCodeOfTheOneThatGaveUp) {
  QAT_NEEDS_MPIRUN();
  EXPECT_EQ(with_ranks(3, program("collectives") + " abort").code, 4);
}

TEST(Threads, AreShared) {
  QAT_NEEDS_MPIRUN();
  const auto print = [](const std::string& environment) {
    return with_ranks(2, "--bind-to none " + program("collectives") + " print", environment).output;
  };
  const std::string processors = shell("nproc").output;
  const int share = std::max(1, std::atoi(processors.c_str()) / 2);
  EXPECT_NE(print("").find("threads " + std::to_string(share) + ","), std::string::npos)
      << print("") << processors;
  EXPECT_NE(print("OMP_NUM_THREADS=3").find("threads 0,"), std::string::npos);
}

class fault_C5 : public testing::TestWithParam<const char*> {};

TEST_P(fault_C5, OneBarrierTooManyIsNamed) {
  QAT_NEEDS_MPIRUN();
  const Ended ended =
      with_ranks(2, program("collectives") + " astray",
                 std::string("QAT_CHECK_COLLECTIVES=1 QAT_MPI_TRANSPORT=") + GetParam());
  EXPECT_EQ(ended.code, 6) << ended.output;
  EXPECT_NE(ended.output.find("rank 0 is at collective 1: all_reduce of 1000 floats, rank 1 at 1: "
                              "barrier"),
            std::string::npos)
      << ended.output;
}
INSTANTIATE_TEST_SUITE_P(Transports, fault_C5, testing::Values("window", "messages"),
                         [](const auto& way) { return std::string(way.param); });

TEST(CheckedCollectives, GiveTheSameResults) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = with_ranks(3, program("collectives") + " check", "QAT_CHECK_COLLECTIVES=1");
  EXPECT_EQ(ended.code, 0) << ended.output;
}

}  // namespace
}  // namespace qat
