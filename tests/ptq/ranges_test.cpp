// Histograms and the grids that follow from them, against sorted and summed doubles.
#include "engine/ptq/ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace qat {
namespace {

template <class Distribution>
std::vector<float> draw(Distribution distribution, size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}
std::vector<float> normal_values(size_t count, unsigned seed) {
  return draw(std::normal_distribution<float>(0.0f, 1.0f), count, seed);
}
std::vector<float> heavy_tailed_values(size_t count, unsigned seed) {
  return draw(std::student_t_distribution<float>(3.0f), count, seed);
}

std::vector<float> sizes_of(std::vector<float> values) {
  for (float& value : values) value = std::abs(value);
  return values;
}

Extent extent_of(const std::vector<float>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {std::min(*low, 0.0f), std::max(*high, 0.0f)};
}

Histogram count(const std::vector<float>& values, Extent range, size_t bins = 4096) {
  Histogram histogram{std::vector<int64_t>(bins), double(range.low), double(range.high)};
  for (const float value : values) {
    const double at = (double(value) - histogram.bottom) / histogram.bin_width();
    ++histogram.counts[size_t(std::clamp(at, 0.0, double(bins) - 1.0))];
  }
  return histogram;
}

// Where the quantile may lie: between the neighbours of its place among the sorted values, by
// whatever rule one counts them.
struct Between {
  double low, high;
};
Between sorted_quantile(std::vector<float> values, double share) {
  std::sort(values.begin(), values.end());
  const int64_t last = int64_t(values.size()) - 1, at = int64_t(share * double(last));
  return {double(values[size_t(std::max<int64_t>(at - 1, 0))]),
          double(values[size_t(std::min(at + 2, last))])};
}
void expect_between(double value, Between bounds, double slack) {
  EXPECT_GE(value, bounds.low - slack);
  EXPECT_LE(value, bounds.high + slack);
}

double measured_error(const std::vector<float>& values, const QuantSpec& spec, Grid grid) {
  const double scale = double(grid.scale), zero = double(grid.zero);
  double sum = 0.0;
  for (const float x : values) {
    const double code = std::clamp(std::nearbyint(double(x) / scale) + zero, double(spec.qmin()),
                                   double(spec.qmax()));
    sum += std::pow(double(x) - (code - zero) * scale, 2);
  }
  return sum / double(values.size());
}

QuantSpec spec_of(int bits, Range range) {
  return {.bits = bits, .per = Per::tensor, .range = range};
}

TEST(HistogramTest, QuantilesOfSortedValues) {
  const std::vector<float> values = heavy_tailed_values(50000, 1), sizes = sizes_of(values);
  const Histogram histogram =
      count(values, histogram_extent(spec_of(8, Range::strict), extent_of(values)));
  const double bin = 1.01 * histogram.bin_width();
  for (const double share : {0.5, 0.9, 0.99, 0.999, 1.0}) {
    expect_between(quantile(histogram, share), sorted_quantile(values, share), bin);
    expect_between(quantile(magnitudes(histogram), share), sorted_quantile(sizes, share), bin);
  }
  EXPECT_EQ(magnitudes(histogram).total(), 50000);
  EXPECT_EQ(quantile(Histogram{std::vector<int64_t>(8), 0.0, 1.0}, 0.5), 0.0);
}

TEST(HistogramTest, ExpectedErrorIsTheMeasuredOne) {
  const std::vector<float> values = normal_values(200000, 2);
  const Extent seen = extent_of(values);
  for (const Range range : {Range::strict, Range::full, Range::asymmetric})
    for (const int bits : {2, 4, 8})
      for (const float clip : {1.0f, 0.6f, 0.3f}) {
        const QuantSpec spec = spec_of(bits, range);
        const Histogram histogram = count(values, histogram_extent(spec, seen));
        const Grid grid = grid_over(spec, {seen.low * clip, seen.high * clip});
        const double measured = measured_error(values, spec, grid);
        EXPECT_NEAR(expected_error(histogram, spec, grid), measured, 0.02 * measured)
            << "bits " << bits << " range " << int(range) << " clip " << clip;
      }
}

TEST(RangesTest, MinMaxIsTheSpecsOwnRule) {
  const Extent seen{-3.0f, 5.0f};
  EXPECT_EQ(calibrated_grid(spec_of(8, Range::strict), {}, seen, {}).scale, 5.0f / 127.0f);
  const Grid grid = calibrated_grid(spec_of(8, Range::asymmetric), {}, seen, {});
  EXPECT_EQ(grid.scale, 8.0f / 255.0f);
  EXPECT_EQ(grid.zero, -128.0f + 96.0f);  // 3 / (8 / 255) = 95.6
}

TEST(RangesTest, PercentileClipsThatShare) {
  const std::vector<float> values = heavy_tailed_values(50000, 3), sizes = sizes_of(values);
  const Extent seen = extent_of(values);
  for (const double percentile : {99.0, 99.9}) {
    const RangeOptions options{RangeRule::percentile, percentile};
    const QuantSpec symmetric = spec_of(8, Range::strict);
    Histogram histogram = count(values, histogram_extent(symmetric, seen));
    expect_between(double(calibrated_grid(symmetric, options, seen, histogram).scale) * 127.0,
                   sorted_quantile(sizes, percentile / 100.0), 1.01 * histogram.bin_width());

    const QuantSpec asymmetric = spec_of(8, Range::asymmetric);
    histogram = count(values, histogram_extent(asymmetric, seen));
    const Between low = sorted_quantile(values, 0.5 - percentile / 200.0);
    const Between high = sorted_quantile(values, 0.5 + percentile / 200.0);
    expect_between(double(calibrated_grid(asymmetric, options, seen, histogram).scale) * 255.0,
                   {high.low - low.high, high.high - low.low}, 2.02 * histogram.bin_width());
  }
  const RangeOptions all{RangeRule::percentile, 100.0};
  const QuantSpec spec = spec_of(8, Range::strict);
  EXPECT_NEAR(calibrated_grid(spec, all, seen, count(values, histogram_extent(spec, seen))).scale,
              calibrated_grid(spec, {}, seen, {}).scale, 1e-6);
}

TEST(RangesTest, LeastErrorBeatsMinMaxOnHeavyTails) {
  const std::vector<float> values = heavy_tailed_values(100000, 4);
  const Extent seen = extent_of(values);
  for (const Range range : {Range::strict, Range::full, Range::asymmetric})
    for (const int bits : {3, 4, 8}) {
      const QuantSpec spec = spec_of(bits, range);
      const Histogram histogram = count(values, histogram_extent(spec, seen));
      const Grid best = calibrated_grid(spec, {.rule = RangeRule::mse}, seen, histogram);
      const double error = measured_error(values, spec, best);
      const double ratio = bits == 8 ? 0.9 : 0.6;
      EXPECT_LT(error, ratio * measured_error(values, spec, calibrated_grid(spec, {}, seen, {})))
          << "bits " << bits << " range " << int(range);
      // No threshold between those that the search tries is much better.
      for (int i = 1; i <= 200 && range == Range::strict; ++i) {
        const float threshold = amax_of(seen) * float(i) / 200.0f;
        const Grid other = grid_over(spec, {-threshold, threshold});
        EXPECT_LT(error, 1.03 * measured_error(values, spec, other)) << bits << " " << threshold;
      }
    }
}

TEST(RangesTest, LeastErrorFindsTheSideWithTheTail) {
  std::vector<float> values = normal_values(100000, 5);
  for (float& value : values) value = std::max(value, -1.0f);
  for (size_t i = 0; i < 3; ++i) values[i] = 60.0f;
  const QuantSpec spec = spec_of(4, Range::asymmetric);
  const Extent seen = extent_of(values);
  const Histogram histogram = count(values, histogram_extent(spec, seen));
  const Grid best = calibrated_grid(spec, {.rule = RangeRule::mse}, seen, histogram);
  const double scale = double(best.scale), zero = double(best.zero);
  EXPECT_LT((double(spec.qmax()) - zero) * scale, 10.0);
  EXPECT_NEAR((double(spec.qmin()) - zero) * scale, -1.0, 1.5 * scale);
  EXPECT_LT(measured_error(values, spec, best),
            0.3 * measured_error(values, spec, calibrated_grid(spec, {}, seen, {})));
}

TEST(RangesTest, DegenerateRangesGiveUsableGrids) {
  for (const Range range : {Range::strict, Range::asymmetric})
    for (const RangeRule rule : {RangeRule::min_max, RangeRule::percentile, RangeRule::mse})
      for (const Extent seen : {Extent{0.0f, 0.0f}, Extent{0.0f, 2.0f}, Extent{-3e38f, 3e38f}}) {
        const QuantSpec spec = spec_of(8, range);
        const Extent extent = histogram_extent(spec, seen);
        EXPECT_LT(extent.low, extent.high);
        EXPECT_TRUE(std::isfinite(extent.high - extent.low));
        const Histogram histogram = count({0.0f, seen.low, seen.high}, extent);
        const Grid grid = calibrated_grid(spec, {rule, 99.9}, seen, histogram);
        EXPECT_GT(grid.scale, 0.0f);
        EXPECT_TRUE(std::isfinite(grid.scale));
        EXPECT_GE(grid.zero, -128.0f);
        EXPECT_LE(grid.zero, 127.0f);
      }
}

}  // namespace
}  // namespace qat
