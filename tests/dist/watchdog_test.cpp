// What the watchdog takes for a hang, and what not, over signs that the test makes up.
#include "engine/dist/watchdog.h"

#include <gtest/gtest.h>

namespace qat {
namespace {

class WatchdogTest : public testing::Test {
 protected:
  WatchdogTest() {
    for (int r = 0; r < 3; ++r) seen_.push_back({.rank = r, .step = 7, .stage = RunStage::step});
  }
  /// Looks ten times a second for `seconds`; ranks for which `runs` says so beat.
  std::optional<std::string> pass(double seconds, std::vector<int> runs = {0, 1, 2}) {
    for (double end = now_ + seconds; now_ < end; now_ += 0.1) {
      for (const int r : runs) ++seen_[size_t(r)].beats;
      if (auto why = watchdog_.look(seen_, now_)) return why;
    }
    return std::nullopt;
  }
  void all_wait(Collective collective) {
    for (Seen& s : seen_) s.waiting = collective;
  }

  std::vector<Seen> seen_;
  double now_ = 0;
  Watchdog watchdog_{{.seconds = 30, .ranks = 3}};
};

class fault_C2 : public WatchdogTest {};
class fault_B14 : public WatchdogTest {};
class fault_A17 : public WatchdogTest {};
class fault_A18 : public WatchdogTest {};

TEST_F(fault_C2, IsFoundAfterTheTimeoutAndNotBefore) {
  all_wait(Collective::all_reduce);
  seen_[1].waiting = Collective::none;
  EXPECT_FALSE(pass(29));
  EXPECT_EQ(pass(2), "rank 1 hangs: no progress for 30 s at step 7, computing");
}

TEST_F(fault_C2, ProcessThatDoesNotRunIsNamedEvenWhereItWaits) {
  all_wait(Collective::all_reduce);
  EXPECT_EQ(pass(31, {0, 1}),
            "rank 2 hangs: no progress for 30 s at step 7, computing, waiting in "
            "all_reduce (its collective 0); its process does not run");
}

TEST_F(fault_C2, ProgressPutsItOff) {
  EXPECT_FALSE(pass(29));
  for (Seen& s : seen_) ++s.progress;
  EXPECT_FALSE(pass(29));
  EXPECT_TRUE(pass(2));
}

TEST_F(fault_C2, RanksOfAnotherMachineAreSuspectedWhereAllHereWait) {
  watchdog_ = Watchdog({.seconds = 30, .ranks = 4});
  all_wait(Collective::barrier);
  const auto why = pass(31);
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("the ranks of this machine wait for those of another"), std::string::npos)
      << *why;
}

TEST_F(fault_C2, RankThatStillMovesIsWaitedFor) {
  all_wait(Collective::all_reduce);
  for (int second = 0; second < 100; ++second) {
    ++seen_[2].progress;
    ASSERT_FALSE(pass(1));
  }
}

TEST_F(fault_C2, RanksThatAllWaitAreSentToTheDebugMode) {
  all_wait(Collective::all_reduce);
  for (Seen& s : seen_) s.collectives = 12;
  seen_[2].waiting = Collective::barrier;
  seen_[2].collectives = 11;
  EXPECT_EQ(pass(31),
            "no progress for 30 s: all ranks wait, rank 2 at step 7, computing, "
            "waiting in barrier (its collective 11); QAT_CHECK_COLLECTIVES=1 names a rank that "
            "does not do what the others do");
}

TEST_F(fault_C2, NeverWithoutATimeout) {
  watchdog_ = Watchdog({.seconds = 0, .ranks = 3});
  EXPECT_FALSE(pass(10'000, {}));
}

TEST_F(fault_B14, SaveTakesTenTimesAsLong) {
  all_wait(Collective::all_reduce_max);
  seen_[0].waiting = Collective::none;
  seen_[0].stage = RunStage::save;
  EXPECT_FALSE(pass(299));
  EXPECT_EQ(pass(2), "rank 0 hangs: no progress for 300 s at step 7, saving");
}

TEST_F(fault_A17, TimeInWhichItDidNotRunDoesNotCount) {
  RanClock::Moment now{};
  RanClock clock(now, 0.5);
  const auto after = [&](double seconds) {
    now += std::chrono::duration_cast<RanClock::Moment::duration>(
        std::chrono::duration<double>(seconds));
    return clock.at(now);
  };
  EXPECT_DOUBLE_EQ(after(0.1), 0.1);
  EXPECT_DOUBLE_EQ(after(3600), 0.6);
  EXPECT_DOUBLE_EQ(after(0.1), 0.7);
}

TEST_F(fault_A18, ClockThatGoesBackIsNoNegativeTime) {
  const RanClock::Moment start{};
  RanClock clock(start, 0.5);
  EXPECT_DOUBLE_EQ(clock.at(start - std::chrono::hours(1)), 0.0);
}

}  // namespace
}  // namespace qat
