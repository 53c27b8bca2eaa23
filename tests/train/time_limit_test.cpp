#include "engine/train/time_limit.h"

#include <gtest/gtest.h>

#include <ctime>
#include <string>

namespace qat {
namespace {

TEST(fault_A13, TheEarlierOfTheTwoLimitsCounts) {
  EXPECT_FALSE(TimeLimit().given());
  EXPECT_FALSE(TimeLimit(0, nullptr).given());
  EXPECT_TRUE(TimeLimit().leaves_room_for(1e9, 1e9));
  const std::string in_ten_minutes = std::to_string(std::time(nullptr) + 600);
  EXPECT_NEAR(TimeLimit(0, in_ten_minutes.c_str()).seconds_left(), 600, 5);
  EXPECT_NEAR(TimeLimit(5, in_ten_minutes.c_str()).seconds_left(), 300, 5);
  EXPECT_NEAR(TimeLimit(20, in_ten_minutes.c_str()).seconds_left(), 600, 5);
  EXPECT_NEAR(
      TimeLimit(20, nullptr, TimeLimit::Clock::now() - std::chrono::minutes(15)).seconds_left(),
      300, 5);
}

TEST(fault_A13, AStepThatCannotBeSavedInTimeDoesNotFit) {
  const TimeLimit limit(1, nullptr);
  EXPECT_TRUE(limit.leaves_room_for(20, 20));
  EXPECT_FALSE(limit.leaves_room_for(30, 20)) << "a quarter and two seconds are kept";
  EXPECT_FALSE(TimeLimit(0, std::to_string(std::time(nullptr) - 5).c_str()).leaves_room_for(0, 0));
}

TEST(fault_A13, WhatSlurmDoesNotWriteIsNoLimit) {
  for (const char* text : {"", "soon", "12x", "99999999999999999999", "9000000000000000000"})
    EXPECT_FALSE(TimeLimit(0, text).given()) << text;
}

}  // namespace
}  // namespace qat
