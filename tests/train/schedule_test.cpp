// Learning-rate schedules.
#include "engine/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "engine/core/error.h"

namespace qat {
namespace {

TEST(Schedule, WarmUpRisesInsideTheStepsAndTheEndIsExact) {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    for (const double final : {0.0, 0.1, 0.3, 1.0}) {
      for (const int64_t warmup : {0, 1, 7, 99}) {
        const Schedule schedule(
            {.kind = kind, .learning_rate = 3e-4, .steps = 100, .warmup = warmup, .final = final});
        const int64_t peak = std::max<int64_t>(warmup - 1, 0);
        for (int64_t step = 0; step < peak; ++step) {
          EXPECT_DOUBLE_EQ(schedule.at(step), 3e-4 * double(step + 1) / double(warmup));
        }
        EXPECT_EQ(schedule.at(peak), 3e-4);
        EXPECT_EQ(schedule.at(99), 3e-4 * final);
        EXPECT_EQ(schedule.at(1000), 3e-4 * final);
        for (int64_t step = peak; step < 99; ++step) {
          EXPECT_GE(schedule.at(step), schedule.at(step + 1));
        }
        // The last step differs from the one before: the end is not reached early.
        if (final < 1.0) {
          EXPECT_GT(schedule.at(98), schedule.at(99));
        }
      }
    }
  }
}

TEST(Schedule, ShapesInBetween) {
  ScheduleOptions options{.learning_rate = 1.0, .steps = 101, .final = 0.2};
  options.kind = ScheduleKind::linear;
  EXPECT_NEAR(Schedule(options).at(25), 0.8, 1e-12);
  options.kind = ScheduleKind::cosine;
  EXPECT_NEAR(Schedule(options).at(25), 0.2 + 0.4 * (1 + std::cos(std::numbers::pi / 4)), 1e-12);
  EXPECT_NEAR(Schedule(options).at(50), 0.6, 1e-12);
  options.kind = ScheduleKind::wsd;
  // A fifth of 101 steps: 81 .. 100.
  EXPECT_EQ(Schedule(options).at(80), 1.0);
  EXPECT_NEAR(Schedule(options).at(81), 0.96, 1e-12);
  EXPECT_NEAR(Schedule(options).at(90), 0.6, 1e-12);
  options.decay = 50;
  EXPECT_EQ(Schedule(options).at(50), 1.0);
  EXPECT_NEAR(Schedule(options).at(75), 0.6, 1e-12);
  options.decay = 500;
  EXPECT_NEAR(Schedule(options).at(25), 0.8, 1e-12);
  options.kind = ScheduleKind::constant;
  EXPECT_EQ(Schedule(options).at(100), 1.0);
}

TEST(Schedule, RewarmsAtStages) {
  const Schedule plain({.kind = ScheduleKind::linear, .learning_rate = 1.0, .steps = 100});
  const Schedule schedule({.kind = ScheduleKind::linear,
                           .learning_rate = 1.0,
                           .steps = 100,
                           .rewarm_at = {20, 30, 60},
                           .rewarm = 4});
  EXPECT_EQ(schedule.at(19), plain.at(19));
  for (const int64_t stage : {20, 30, 60}) {
    for (int64_t i = 0; i < 4; ++i) {
      EXPECT_DOUBLE_EQ(schedule.at(stage + i), plain.at(stage + i) * double(i + 1) / 4);
    }
    EXPECT_EQ(schedule.at(stage + 3), plain.at(stage + 3));
    EXPECT_EQ(schedule.at(stage + 4), plain.at(stage + 4));
  }
  EXPECT_EQ(schedule.at(99), 0.1);
}

TEST(Schedule, AStageInsideTheWarmUpDoesNotMultiplyWithIt) {
  const Schedule schedule({.kind = ScheduleKind::constant,
                           .learning_rate = 1.0,
                           .steps = 100,
                           .warmup = 10,
                           .rewarm_at = {2},
                           .rewarm = 4});
  EXPECT_DOUBLE_EQ(schedule.at(1), 0.2);
  EXPECT_DOUBLE_EQ(schedule.at(2), 0.25);
  EXPECT_DOUBLE_EQ(schedule.at(3), 0.4);
}

TEST(Schedule, OneStepAndNone) {
  EXPECT_EQ(Schedule({.learning_rate = 1.0, .steps = 1}).at(0), 1.0);
  EXPECT_EQ(Schedule({.learning_rate = 1.0, .steps = 1, .warmup = 1}).at(0), 1.0);
  EXPECT_EQ(Schedule({.learning_rate = 1.0, .steps = 0, .warmup = 20}).at(0), 0.05);
}

TEST(Schedule, ARunShorterThanItsWarmUpOnlyRises) {
  const Schedule cut({.learning_rate = 1.0, .steps = 5, .warmup = 20});
  EXPECT_DOUBLE_EQ(cut.at(0), 0.05);
  EXPECT_DOUBLE_EQ(cut.at(4), 0.25);
  EXPECT_EQ(Schedule({.learning_rate = 1.0, .steps = 20, .warmup = 20}).at(19), 1.0);
}

TEST(Schedule, RefusesWhatCannotHold) {
  const auto refused = [](const ScheduleOptions& options) {
    try {
      const Schedule schedule(options);
    } catch (const Error& error) {
      return error.code() == Exit::refused;
    }
    return false;
  };
  EXPECT_FALSE(refused({.steps = 20, .warmup = 19}));
  EXPECT_TRUE(refused({.learning_rate = 0.0, .steps = 20}));
  EXPECT_TRUE(refused({.learning_rate = std::nan(""), .steps = 20}));
  EXPECT_TRUE(refused({.steps = 20, .final = 1.5}));
  EXPECT_TRUE(refused({.steps = 20, .final = std::nan("")}));
  EXPECT_TRUE(refused({.kind = ScheduleKind::wsd, .steps = 20, .decay = -1}));
  EXPECT_TRUE(refused({.steps = -1}));
}

TEST(Schedule, DescribesItselfInOneLine) {
  EXPECT_EQ(Schedule({.learning_rate = 2e-5, .steps = 300, .warmup = 20}).describe(),
            "cosine: 2e-05 after 20 steps of warm-up, 2e-06 at step 299");
}

}  // namespace
}  // namespace qat
