// Repetition, loops and where texts part.
#include "models/evaluation/stability.h"

#include <gtest/gtest.h>

#include <numeric>

namespace qat {
namespace {

std::vector<int32_t> counting(int32_t count) {
  std::vector<int32_t> ids(size_t(count), 0);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::vector<int32_t> repeated(const std::vector<int32_t>& piece, int times) {
  std::vector<int32_t> ids;
  for (int i = 0; i < times; ++i) ids.insert(ids.end(), piece.begin(), piece.end());
  return ids;
}

TEST(Repetition, OfATextWithoutAny) {
  const Repetition r = repetition_of(counting(100));
  EXPECT_EQ(r.repeated, 0.0);
  EXPECT_EQ(r.distinct_1, 1.0);
  EXPECT_EQ(r.distinct_2, 1.0);
  EXPECT_FALSE(r.loop);
}

TEST(Repetition, CountsWhatCameBefore) {
  // 37 4-grams, of which 10 are new.
  const Repetition r = repetition_of(repeated(counting(10), 4));
  EXPECT_NEAR(r.repeated, 27.0 / 37, 1e-12);
  EXPECT_NEAR(r.distinct_1, 0.25, 1e-12);
  EXPECT_NEAR(r.distinct_2, 10.0 / 39, 1e-12);
}

TEST(Repetition, ALoopIsLongAndAtTheEnd) {
  EXPECT_TRUE(repetition_of(repeated({7}, 24)).loop);
  EXPECT_FALSE(repetition_of(repeated({7}, 23)).loop);
  EXPECT_TRUE(repetition_of(repeated(counting(10), 3)).loop);
  EXPECT_FALSE(repetition_of(repeated(counting(10), 2)).loop);
  std::vector<int32_t> over = repeated(counting(10), 5);
  over.push_back(99);
  EXPECT_FALSE(repetition_of(over).loop);
  std::vector<int32_t> late = counting(50);
  const std::vector<int32_t> loop = repeated({3, 1, 4}, 9);
  late.insert(late.end(), loop.begin(), loop.end());
  EXPECT_TRUE(repetition_of(late).loop);
}

TEST(Repetition, ShortTextsAreNoFailure) {
  for (const int32_t length : {0, 1, 3}) EXPECT_EQ(repetition_of(counting(length)).repeated, 0.0);
}

TEST(Stability, DivergenceIsTheFirstOtherToken) {
  const auto text = [](std::vector<int32_t> ids) {
    return GeneratedText{"p", "t", std::move(ids)};
  };
  const std::vector<GeneratedText> reference = {text({1, 2, 3, 4}), text({1, 2, 3, 4}),
                                                text({5, 6})};
  const std::vector<GeneratedText> texts = {text({1, 2, 3, 4}), text({1, 9, 3, 4}),
                                            text({5, 6, 7})};
  const Stability s = stability_of(texts, &reference);
  ASSERT_TRUE(s.divergence);
  EXPECT_NEAR(s.divergence->same_texts, 1.0 / 3, 1e-12);
  EXPECT_EQ(s.divergence->median_token, 2.0);
  EXPECT_NEAR(s.divergence->common, (1.0 + 0.25 + 1.0) / 3, 1e-12);
  EXPECT_FALSE(stability_of(texts, nullptr).divergence);
}

}  // namespace
}  // namespace qat
