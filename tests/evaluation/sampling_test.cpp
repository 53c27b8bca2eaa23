// Which tokens may be drawn, and how often.
#include "models/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace qat {
namespace {

// Probabilities 0.5, 0.25, 0.15, 0.1 at temperature 1.
const std::vector<float> kLogits = {std::log(0.15f), std::log(0.5f), std::log(0.1f),
                                    std::log(0.25f)};

std::map<int32_t, double> shares(const SamplingOptions& options,
                                 const std::vector<int32_t>& seen = {}) {
  constexpr int kDraws = 4000;
  std::map<int32_t, double> found;
  for (int i = 0; i < kDraws; ++i)
    found[sample(kLogits, seen, options, uint64_t(i))] += 1.0 / kDraws;
  return found;
}

TEST(Sampling, TemperatureZeroTakesTheLikeliest) {
  EXPECT_EQ(sample(kLogits, {}, {}, 0), 1);
}

TEST(Sampling, DrawsByProbability) {
  const auto found = shares({.temperature = 1.0});
  EXPECT_NEAR(found.at(1), 0.5, 0.03);
  EXPECT_NEAR(found.at(2), 0.1, 0.02);
  const auto hot = shares({.temperature = 2.0});
  EXPECT_NEAR(hot.at(1) / hot.at(3), std::sqrt(2.0), 0.15);
}

TEST(Sampling, TopKTopPAndMinPKeepTheLikeliest) {
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 2}).size(), 2u);
  EXPECT_EQ(shares({.temperature = 1.0, .top_p = 0.7}).size(), 2u);  // 0.5 + 0.25 reach it
  EXPECT_EQ(shares({.temperature = 1.0, .top_p = 0.76}).size(), 3u);
  const auto found =
      shares({.temperature = 1.0, .min_p = 0.4});  // 0.25 is half of 0.5, 0.15 is not
  EXPECT_EQ(found.size(), 2u);
  EXPECT_NEAR(found.at(3), 1.0 / 3, 0.03);
}

TEST(Sampling, ThePenaltyDividesPositiveLogitsAndMultipliesNegativeOnes) {
  const std::vector<float> logits = {3.0f, 2.0f, -1.0f};
  const std::vector<int32_t> seen = {0, 0};
  EXPECT_EQ(sample(logits, seen, {.repetition_penalty = 1.4}, 0), 0);
  EXPECT_EQ(sample(logits, seen, {.repetition_penalty = 1.6}, 0), 1);
  const std::vector<float> negative = {-1.0f, -1.5f};
  EXPECT_EQ(sample(negative, seen, {.repetition_penalty = 1.4}, 0), 0);
  EXPECT_EQ(sample(negative, seen, {.repetition_penalty = 1.6}, 0), 1);
}

TEST(Sampling, FollowsTheSeed) {
  const SamplingOptions a{.temperature = 1.0, .seed = 1}, b{.temperature = 1.0, .seed = 2};
  int differ = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(sample(kLogits, {}, a, i), sample(kLogits, {}, a, i));
    differ += sample(kLogits, {}, a, i) != sample(kLogits, {}, b, i);
  }
  EXPECT_GT(differ, 20);
}

}  // namespace
}  // namespace qat
