// AWQ's factors by the formulas of llm-awq and AutoAWQ, its clip search against one on the tokens
// themselves, and that both lower what they are to lower.
#include "engine/ptq/awq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "kernels/quant_math.h"

namespace qat {
namespace {

constexpr int64_t kO = 16, kK = 64, kTokens = 256;

struct Case {
  std::vector<float> x_TK, w_OK;
};

// A few input channels are much larger than the others.
Case with_outliers(unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Case result;
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t k = 0; k < kK; ++k)
      result.x_TK.push_back(normal(generator) * (k % 16 == 3 ? 30.0f : 0.5f + 0.02f * float(k)));
  for (int64_t i = 0; i < kO * kK; ++i) result.w_OK.push_back(0.1f * normal(generator));
  return result;
}

Gram gram_of(Case& c, Stream& stream) {
  Gram gram(kK);
  gram.add({reinterpret_cast<std::byte*>(c.x_TK.data()), {kTokens, kK}, DType::f32}, kTokens,
           cpu_kernels(), stream);
  return gram;
}

QuantSpec int4_group() {
  return {.bits = 4,
          .per = Per::group,
          .group = 32,
          .range = Range::asymmetric,
          .rule = ScaleRule::min_max};
}

TEST(AwqTest, FactorsByTheFormulas) {
  const std::vector<float> x = {4.0f, 1.0f, 0.25f, 0.0f}, w = {0.5f, 0.25f, 1.0f, 0.125f};
  const auto expect = [](const std::vector<float>& got, std::vector<double> raw) {
    double most = 0.0, least = std::numeric_limits<double>::infinity();
    for (double& s : raw) {
      s = std::max(s, 1e-4);
      most = std::max(most, s);
      least = std::min(least, s);
    }
    for (size_t i = 0; i < raw.size(); ++i)
      EXPECT_FLOAT_EQ(got[i], float(raw[i] / std::sqrt(most * least))) << i;
  };
  expect(awq_factors(x, {}, 0.5), {2.0, 1.0, 0.5, 0.0});
  for (const float factor : awq_factors(x, {}, 0.0)) EXPECT_EQ(factor, 1.0f);  // 0^0 is 1, too
  const auto duo = [&](double ratio) {
    std::vector<double> raw;
    for (size_t i = 0; i < x.size(); ++i)
      raw.push_back(std::pow(double(x[i]), ratio) / (std::pow(double(w[i]), 1.0 - ratio) + 1e-4));
    return raw;
  };
  for (const double ratio : {0.0, 0.35, 0.95}) expect(awq_factors(x, w, ratio), duo(ratio));
}

TEST(AwqTest, MeanWeightsAreRelativeToTheirGroup) {
  const std::vector<AwqLinear> linears = {{{1.0f, -2.0f, 0.5f, 0.25f}, 1, {}},
                                          {{4.0f, 2.0f, 0.0f, -1.0f}, 1, {}}};
  const std::vector<float> expected = {(0.5f + 1.0f) / 2, (1.0f + 0.5f) / 2, (1.0f + 0.0f) / 2,
                                       (0.5f + 1.0f) / 2};
  const std::vector<float> got = mean_relative_weights(linears, 4, 2);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(got[i], expected[i], 3e-6);
}

TEST(AwqTest, ScalesBringOutliersBack) {
  Stream stream;
  Case c = with_outliers(1);
  const Gram gram = gram_of(c, stream);
  for (const bool duo : {false, true}) {
    AwqOptions options;
    options.duo_scaling = duo;
    const AwqScales scales =
        search_scales({{c.w_OK, kO, int4_group()}}, gram, options, {}, cpu_kernels(), stream);
    EXPECT_LT(scales.error_after, 0.5 * scales.error_before);
    EXPECT_GT(scales.ratio, 0.2);
    EXPECT_GT(scales.factors[3], 3.0f * scales.factors[4]);
    std::vector<float> weight;
    if (duo) weight = mean_relative_weights({{c.w_OK, kO, int4_group()}}, kK, 32);
    EXPECT_EQ(scales.factors, awq_factors(gram.mean_magnitudes(), weight, scales.ratio));
  }
}

TEST(AwqTest, ColumnsOfOneRowOfValuesShareAFactor) {
  Stream stream;
  Case c = with_outliers(2);
  std::vector<int64_t> share;
  for (int64_t k = 0; k < kK; ++k) share.push_back(k / 32 * 16 + k % 16);
  const AwqScales scales = search_scales({{c.w_OK, kO, int4_group()}}, gram_of(c, stream), {},
                                         share, cpu_kernels(), stream);
  EXPECT_LT(scales.error_after, scales.error_before);
  for (int64_t k = 0; k < kK; ++k)
    EXPECT_EQ(scales.factors[size_t(k)], scales.factors[size_t(k / 32 * 32 + k % 16)]);
}

TEST(AwqTest, ClipsToTheRangeOfLeastErrorOnTheTokens) {
  Stream stream;
  Case c = with_outliers(3);
  c.w_OK[5] = 1.5f;  // one weight stretches its group
  for (const Range range : {Range::asymmetric, Range::full, Range::minimum}) {
    QuantSpec spec = int4_group();
    spec.range = range;
    if (range == Range::full) spec.rule = ScaleRule::no_clip;
    const SolvedMatrix got =
        round_clipped(c.w_OK.data(), kO, gram_of(c, stream), spec, cpu_kernels(), stream);
    const SolvedMatrix own = round_to_nearest(c.w_OK.data(), kO, kK, spec, cpu_kernels(), stream);
    int clipped = 0;
    for (int64_t o = 0; o < kO; ++o)
      for (int64_t begin = 0; begin < kK; begin += 32) {
        const float* w = c.w_OK.data() + o * kK + begin;
        const auto error = [&](Grid grid) {
          double sum = 0.0;
          for (int64_t t = 0; t < kTokens; ++t) {
            double y = 0.0;
            for (int64_t k = 0; k < 32; ++k)
              y += double(c.x_TK[size_t(t * kK + begin + k)]) *
                   double(value_of(float(nearest_code(w[k], spec, grid)), grid) - w[k]);
            sum += y * y;
          }
          return sum;
        };
        float low = w[0], high = w[0];
        for (int64_t k = 1; k < 32; ++k) {
          low = std::min(low, w[k]);
          high = std::max(high, w[k]);
        }
        if (range != Range::minimum) {
          low = std::min(low, 0.0f);
          high = std::max(high, 0.0f);
        }
        const size_t at = own.grid_index(o, begin);
        double least = error(own.grid(at));
        for (int step = 0; step < 10; ++step) {
          const float bound = std::max(-low, high) * (1.0f - float(step) / 20.0f);
          const Extent extent = {std::max(low, -bound), std::min(high, bound)};
          least = std::min(least, error(make_grid(spec, extent, raw_scale(spec, extent, 0.0f))));
        }
        EXPECT_LE(error(got.grid(at)), least * 1.0001);
        clipped += got.scales[at] < own.scales[at];
        for (int64_t k = begin; k < begin + 32; ++k)
          ASSERT_EQ(got.codes[size_t(o * kK + k)],
                    nearest_code(c.w_OK[size_t(o * kK + k)], spec, got.grid(at)));
      }
    EXPECT_GT(clipped, 3);
  }
}

}  // namespace
}  // namespace qat
