// Intervals: their ends for rows whose distribution is known, and that they repeat.
#include "models/evaluation/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qat {
namespace {

TEST(Bootstrap, EqualRowsHaveNoSpread) {
  const Interval interval = bootstrap_mean(std::vector<double>(40, 2.5));
  EXPECT_DOUBLE_EQ(interval.low, 2.5);
  EXPECT_DOUBLE_EQ(interval.high, 2.5);
}

TEST(Bootstrap, OfAShareIsTheBinomialsInterval) {
  std::vector<double> rows(500, 0.0);
  std::fill(rows.begin(), rows.begin() + 150, 1.0);
  const Interval interval = bootstrap_mean(rows);
  const double half = 1.96 * std::sqrt(0.3 * 0.7 / 500);
  EXPECT_NEAR(interval.low, 0.3 - half, 0.006);
  EXPECT_NEAR(interval.high, 0.3 + half, 0.006);
}

TEST(Bootstrap, TheSameRowsGiveTheSameInterval) {
  std::vector<double> rows;
  for (int i = 0; i < 77; ++i) rows.push_back(std::sin(double(i)));
  const Interval a = bootstrap_mean(rows), b = bootstrap_mean(rows);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_LT(a.low, mean(rows));
  EXPECT_GT(a.high, mean(rows));
}

TEST(Bootstrap, EveryRowIsDrawnAsOftenAsTheOthers) {
  std::vector<double> drawn(7, 0.0);
  bootstrap(drawn.size(), [&](std::span<const uint32_t> rows) {
    EXPECT_EQ(rows.size(), drawn.size());
    for (const uint32_t row : rows) drawn.at(row) += 1;
    return 0.0;
  });
  for (const double count : drawn) EXPECT_NEAR(count, kResamples, 0.15 * kResamples);
}

TEST(Bootstrap, OfAPerplexityIsThatOfItsExponent) {
  const std::vector<double> nll = {1.0, 2.0, 3.0, 4.0, 2.5, 1.5, 3.5, 2.0};
  const Interval plain = bootstrap_mean(nll), exponents = bootstrap_exp_mean(nll);
  EXPECT_NEAR(exponents.low, std::exp(plain.low), 1e-2 * exponents.low);
  EXPECT_NEAR(exponents.high, std::exp(plain.high), 1e-2 * exponents.high);
}

TEST(Bootstrap, NoRowsAreNoFailure) {
  EXPECT_EQ(bootstrap_mean({}).high, 0.0);
}

}  // namespace
}  // namespace qat
