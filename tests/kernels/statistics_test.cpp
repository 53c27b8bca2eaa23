// observe and sum_squares.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

class StatisticsTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, StatisticsTest, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(StatisticsTest, ObserveKeepsRunningStatistics) {
  constexpr int64_t kRows = 300, kCols = 201, kBins = 64;
  Tensor first({kRows, kCols}, GetParam()), second({kRows, kCols}, GetParam());
  first.fill_normal(1, 1.0);
  second.fill_normal(2, 1.5);
  for (int threads : {1, 2, 3}) {
    Tensor amax({kCols}, DType::f32), min_max({2}, DType::f32), histogram({kBins}, DType::i64);
    amax.fill(0.0);
    min_max.fill(0.0);
    for (int64_t i = 0; i < kBins; ++i) histogram.view().as<int64_t>()[i] = 0;
    Stream stream(threads);
    for (Tensor* x : {&first, &second})
      cpu_kernels().observe.run({x->view(), amax.view(), min_max.view(), histogram.view(), 2.0f},
                                stream);
    std::vector<double> expected(kCols, 0.0);
    std::vector<int64_t> bins(kBins, 0);
    double low = 0, high = 0;
    for (const Tensor* x : {&first, &second})
      for (int64_t i = 0; i < x->count(); ++i) {
        const double value = (*x)[i];
        expected[size_t(i % kCols)] = std::max(expected[size_t(i % kCols)], std::abs(value));
        low = std::min(low, value);
        high = std::max(high, value);
        ++bins[size_t(std::min<int64_t>(kBins - 1, int64_t(std::abs(value) / 2.0 * kBins)))];
      }
    for (int64_t c = 0; c < kCols; ++c) ASSERT_EQ(amax[c], expected[size_t(c)]);
    EXPECT_EQ(min_max[0], low);
    EXPECT_EQ(min_max[1], high);
    for (int64_t i = 0; i < kBins; ++i)
      ASSERT_EQ(histogram.view().as<int64_t>()[i], bins[size_t(i)]) << i;
  }
}

TEST(ObserveTest, LargeHistogramAndStrangeValues) {
  Tensor x({40000}, DType::f32), histogram({5000}, DType::i64);
  x.fill(1.0);
  x.set(7, std::nan(""));
  x.set(8, -std::numeric_limits<double>::infinity());
  for (int64_t i = 0; i < 5000; ++i) histogram.view().as<int64_t>()[i] = 0;
  Stream stream(2);
  Observe args{};
  args.x_TC = x.view();
  args.histogram = histogram.view();
  args.histogram_top = 4.0f;
  cpu_kernels().observe.run(args, stream);
  EXPECT_EQ(histogram.view().as<int64_t>()[1250], 39998);
  EXPECT_EQ(histogram.view().as<int64_t>()[4999], 1);
}

TEST_P(StatisticsTest, SumSquaresAddsInAFixedOrder) {
  for (int64_t count : {1, 31, 1000, 100003}) {
    Tensor x({count}, GetParam());
    x.fill_normal(3, 1.0);
    long double expected = 0;
    for (int64_t i = 0; i < count; ++i) expected += (long double)(x[i]) * x[i];
    double first = 0;
    for (int threads : {1, 2, 3}) {
      double out[2] = {5.0, 1.0};
      Stream stream(threads);
      cpu_kernels().sum_squares.run({x.view(), out}, stream);
      EXPECT_NEAR(out[0], double(expected) + 5.0, 1e-12 * double(expected));
      EXPECT_EQ(out[1], 1.0);
      if (threads == 1) first = out[0];
      EXPECT_EQ(out[0], first);
    }
  }
}

TEST_P(StatisticsTest, SumSquaresCountsNonFinite) {
  Tensor x({50000}, GetParam());
  x.fill(2.0);
  x.set(3, std::nan(""));
  x.set(40000, std::numeric_limits<double>::infinity());
  x.set(40001, -std::numeric_limits<double>::infinity());
  double out[2] = {0.0, 0.0};
  Stream stream(2);
  cpu_kernels().sum_squares.run({x.view(), out}, stream);
  EXPECT_EQ(out[1], 3.0);
  EXPECT_FALSE(std::isfinite(out[0]));
}

TEST(SumSquaresTest, LargestFloatsDoNotOverflow) {
  Tensor x({1000}, DType::f32);
  x.fill(3e38);
  double out[2] = {0.0, 0.0};
  Stream stream(1);
  cpu_kernels().sum_squares.run({x.view(), out}, stream);
  EXPECT_NEAR(out[0] / (1000 * 9e76), 1.0, 1e-6);
  EXPECT_EQ(out[1], 0.0);
}

}  // namespace
}  // namespace qat
