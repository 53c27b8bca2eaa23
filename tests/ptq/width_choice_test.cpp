// Which width each unit gets within a size: against every choice there is.
#include "engine/ptq/width_choice.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "engine/core/error.h"

namespace qat {
namespace {

using Units = std::vector<std::vector<WidthOption>>;

struct Total {
  int64_t size = 0;
  double harm = 0.0;
};

Total total(const Units& units, const std::vector<size_t>& choice) {
  Total sum;
  for (size_t i = 0; i < units.size(); ++i) {
    sum.size += units[i][choice[i]].size;
    sum.harm += units[i][choice[i]].harm;
  }
  return sum;
}

Total best_of_all(const Units& units, int64_t budget) {
  Total best{0, std::numeric_limits<double>::infinity()};
  std::vector<size_t> choice(units.size(), 0);
  while (true) {
    const Total sum = total(units, choice);
    if (sum.size <= budget &&
        (sum.harm < best.harm || (sum.harm == best.harm && sum.size < best.size)))
      best = sum;
    size_t at = 0;
    while (at < units.size() && ++choice[at] == units[at].size()) choice[at++] = 0;
    if (at == units.size()) return best;
  }
}

int64_t smallest(const Units& units) {
  int64_t size = 0;
  for (const auto& options : units) {
    int64_t least = options[0].size;
    for (const WidthOption& option : options) least = std::min(least, option.size);
    size += least;
  }
  return size;
}

// Harms are small whole numbers, so that sums are exact and some are equal; wider is not always
// better.
Units random_units(std::mt19937& random, int64_t step) {
  Units units(1 + random() % 6);
  for (auto& options : units) {
    options.resize(1 + random() % 3);
    for (WidthOption& option : options)
      option = {int64_t(100 + step * int64_t(random() % 9)), double(random() % 20)};
  }
  return units;
}

TEST(WidthChoice, IsTheBestOfAll) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    const Units units = random_units(random, 1 + int64_t(random() % 7));
    const int64_t budget = smallest(units) + int64_t(random() % 80);
    const Total got = total(units, least_harm(units, budget));
    const Total best = best_of_all(units, budget);
    ASSERT_LE(got.size, budget) << round;
    ASSERT_EQ(got.harm, best.harm) << round;
    ASSERT_EQ(got.size, best.size) << round;
  }
}

// A greedy choice takes the first unit's upgrade, the best for its size, and has no room for the
// second's.
TEST(WidthChoice, IsNotTheGreedyOne) {
  const Units units = {{{10, 5.0}, {13, 1.0}}, {{10, 9.0}, {15, 4.0}}};
  EXPECT_EQ(least_harm(units, 25), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(least_harm(units, 24), (std::vector<size_t>{1, 0}));
  EXPECT_EQ(least_harm(units, 20), (std::vector<size_t>{0, 0}));
  EXPECT_EQ(least_harm(units, 1000), (std::vector<size_t>{1, 1}));
}

// Sizes without a common divisor and far apart are rounded up: the budget holds all the same.
TEST(WidthChoice, StaysWithinTheBudgetWhereSizesAreRounded) {
  std::mt19937 random(4);
  for (int round = 0; round < 10; ++round) {
    Units units(5);
    for (auto& options : units)
      for (int option = 0; option < 3; ++option)
        options.push_back({1 + int64_t(random() % 100000000), double(random() % 1000)});
    const int64_t budget = smallest(units) + int64_t(random() % 150000000);
    const Total got = total(units, least_harm(units, budget));
    EXPECT_LE(got.size, budget);
    EXPECT_LE(got.harm, best_of_all(units, budget - budget / 1000).harm);
  }
}

TEST(WidthChoice, OfNothingIsNothing) {
  EXPECT_TRUE(least_harm({}, 0).empty());
  EXPECT_EQ(least_harm({{{7, 1.0}}}, 7), std::vector<size_t>{0});
}

}  // namespace
}  // namespace qat
