// GPTQ against a reference written from the formulas in double precision, and what it promises
// beside that.
#include "engine/ptq/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "engine/core/error.h"

namespace qat {
namespace {

using Rows = std::vector<std::vector<double>>;

constexpr int64_t kO = 24, kK = 96, kTokens = 640;

struct Case {
  std::vector<float> x_TK, w_OK;
};

// Inputs whose neighbours are alike, with channels of different sizes.
Case correlated(unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Case result;
  for (int64_t t = 0; t < kTokens; ++t) {
    float before = 0.0f;
    for (int64_t k = 0; k < kK; ++k) {
      before = 0.8f * before + 0.6f * normal(generator);
      result.x_TK.push_back(before * (1.0f + 3.0f * float((k * 7) % 11) / 11.0f));
    }
  }
  for (int64_t i = 0; i < kO * kK; ++i) result.w_OK.push_back(0.1f * normal(generator));
  return result;
}

View view_of(std::vector<float>& values, Shape shape) {
  return {reinterpret_cast<std::byte*>(values.data()), shape, DType::f32};
}

Gram gram_of(Case& c, Stream& stream) {
  Gram gram(kK);
  gram.add(view_of(c.x_TK, {kTokens, kK}), kTokens, cpu_kernels(), stream);
  return gram;
}

Rows inverse_of(Rows a) {
  const size_t n = a.size();
  Rows inverse(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) inverse[i][i] = 1.0;
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t r = i; r < n; ++r)
      if (std::fabs(a[r][i]) > std::fabs(a[pivot][i])) pivot = r;
    std::swap(a[i], a[pivot]);
    std::swap(inverse[i], inverse[pivot]);
    const double by = a[i][i];
    for (size_t c = 0; c < n; ++c) {
      a[i][c] /= by;
      inverse[i][c] /= by;
    }
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = a[r][i];
      for (size_t c = 0; c < n; ++c) {
        a[r][c] -= factor * a[i][c];
        inverse[r][c] -= factor * inverse[i][c];
      }
    }
  }
  return inverse;
}

// Upper U with UT U = a.
Rows upper_factor(const Rows& a) {
  const size_t n = a.size();
  Rows u(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = i; j < n; ++j) {
      double sum = a[i][j];
      for (size_t k = 0; k < i; ++k) sum -= u[k][i] * u[k][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  return u;
}

// The algorithm of the paper, one column after the other, without blocks.
SolvedMatrix reference(const Case& c, const QuantSpec& spec, const GptqOptions& options) {
  Stream stream(1);
  Rows h(kK, std::vector<double>(kK, 0.0));
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kK; ++i)
      for (int64_t j = 0; j < kK; ++j)
        h[size_t(i)][size_t(j)] += 2.0 / double(kTokens) * double(c.x_TK[size_t(t * kK + i)]) *
                                   double(c.x_TK[size_t(t * kK + j)]);
  Rows w(kO, std::vector<double>(kK));
  for (int64_t o = 0; o < kO; ++o)
    for (int64_t k = 0; k < kK; ++k) w[size_t(o)][size_t(k)] = double(c.w_OK[size_t(o * kK + k)]);
  for (size_t k = 0; k < size_t(kK); ++k)
    if (h[k][k] == 0.0) {
      h[k][k] = 1.0;
      for (auto& row : w) row[k] = 0.0;
    }
  std::vector<size_t> order(kK);
  std::iota(order.begin(), order.end(), size_t{0});
  if (options.order != ActOrder::none)
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return h[a][a] > h[b][b]; });
  double mean = 0.0;
  for (size_t k = 0; k < size_t(kK); ++k) mean += h[k][k] / double(kK);
  Rows permuted(kK, std::vector<double>(kK));
  for (size_t i = 0; i < size_t(kK); ++i)
    for (size_t j = 0; j < size_t(kK); ++j)
      permuted[i][j] = h[order[i]][order[j]] + (i == j ? options.dampening_frac * mean : 0.0);
  const Rows u = upper_factor(inverse_of(permuted));

  SolvedMatrix result(spec, kO, kK);
  result.unrounded.resize(size_t(kO * kK));
  const size_t group = spec.per == Per::group ? size_t(spec.group) : size_t(kK);
  QuantSpec row_spec = spec;
  row_spec.per = Per::row;
  row_spec.group = 0;
  const auto choose = [&](size_t g, const std::vector<size_t>& columns) {
    std::vector<float> part;
    for (const auto& row : w)
      for (const size_t k : columns) part.push_back(float(row[k]));
    const SolvedMatrix grids =
        round_to_nearest(part.data(), kO, int64_t(columns.size()), row_spec, cpu_kernels(), stream);
    for (size_t o = 0; o < size_t(kO); ++o) {
      result.scales[o * (size_t(kK) / group) + g] = grids.scales[o];
      if (!grids.seconds.empty()) result.seconds[o * (size_t(kK) / group) + g] = grids.seconds[o];
    }
  };
  std::vector<size_t> group_of(kK);
  for (size_t i = 0; i < size_t(kK); ++i)
    group_of[options.order == ActOrder::groups ? order[i] : i] = i / group;
  const auto columns_of = [&](size_t g) {
    std::vector<size_t> columns;
    for (size_t i = g * group; i < (g + 1) * group; ++i)
      columns.push_back(options.order == ActOrder::groups ? order[i] : i);
    return columns;
  };
  if (options.order == ActOrder::fixed_groups)
    for (size_t g = 0; g < size_t(kK) / group; ++g) choose(g, columns_of(g));
  for (size_t i = 0; i < size_t(kK); ++i) {
    const size_t k = order[i];
    if (options.order != ActOrder::fixed_groups && i % group == 0)
      choose(i / group, columns_of(i / group));
    for (size_t o = 0; o < size_t(kO); ++o) {
      const Grid grid = result.grid(o * (size_t(kK) / group) + group_of[k]);
      const int8_t code = nearest_code(float(w[o][k]), spec, grid);
      result.codes[o * size_t(kK) + k] = code;
      result.unrounded[o * size_t(kK) + k] = float(w[o][k]);
      const double error = (w[o][k] - double(value_of(float(code), grid))) / u[i][i];
      for (size_t j = i + 1; j < size_t(kK); ++j) w[o][order[j]] -= error * u[i][j];
    }
  }
  return result;
}

QuantSpec spec_of(int bits, int group, Range range, ScaleRule rule) {
  return {.bits = bits,
          .per = group ? Per::group : Per::row,
          .group = group,
          .range = range,
          .rule = rule,
          .scale_type = ScaleType::portable};
}

std::vector<QuantSpec> specs() {
  return {spec_of(4, 32, Range::full, ScaleRule::mse),
          spec_of(4, 32, Range::full, ScaleRule::signed_max),
          spec_of(3, 24, Range::full, ScaleRule::half_range),
          spec_of(4, 32, Range::asymmetric, ScaleRule::min_max),
          spec_of(4, 32, Range::asymmetric, ScaleRule::mse),
          spec_of(4, 32, Range::minimum, ScaleRule::min_max),
          spec_of(2, 48, Range::strict, ScaleRule::amax),
          spec_of(2, 32, Range::stretched, ScaleRule::mse),
          spec_of(4, 0, Range::strict, ScaleRule::amax)};
}

double error_of(Case& c, const SolvedMatrix& solved) {
  Stream stream(1);
  const Gram gram = gram_of(c, stream);
  OutputSquares squares({gram.sums().begin(), gram.sums().end()}, kK, cpu_kernels(), stream);
  return squares.relative_error(c.w_OK, solved.values());
}

TEST(GptqTest, CodesAreTheReferences) {
  Stream stream;
  for (const QuantSpec& spec : specs())
    for (const ActOrder order : {ActOrder::none, ActOrder::fixed_groups, ActOrder::groups})
      for (const int64_t block : {40, 128}) {
        SCOPED_TRACE(fmt::format("{} bits, range {}, rule {}, group {}, order {}, block {}",
                                 spec.bits, int(spec.range), int(spec.rule), spec.group, int(order),
                                 block));
        Case c = correlated(unsigned(spec.bits + 10 * int(order)));
        GptqOptions options;
        options.order = order;
        options.block_size = block;
        const SolvedMatrix expected = reference(c, spec, options);
        const SolvedMatrix got =
            gptq(c.w_OK.data(), kO, gram_of(c, stream), spec, options, "w", cpu_kernels(), stream);
        EXPECT_EQ(got.codes, expected.codes);
        EXPECT_EQ(got.scales, expected.scales);
        EXPECT_EQ(got.seconds, expected.seconds);
        EXPECT_EQ(got.group_of.empty(), order != ActOrder::groups || spec.per != Per::group);
      }
}

// Training goes on from what each code was chosen for, or from the end of the code's cell.
TEST(GptqTest, KeepsWhatItRounded) {
  Stream stream;
  for (const QuantSpec& spec : specs())
    for (const ActOrder order : {ActOrder::none, ActOrder::fixed_groups}) {
      Case c = correlated(unsigned(spec.bits));
      GptqOptions options;
      options.order = order;
      const SolvedMatrix expected = reference(c, spec, options);
      const SolvedMatrix got =
          gptq(c.w_OK.data(), kO, gram_of(c, stream), spec, options, "w", cpu_kernels(), stream);
      int64_t beyond = 0;
      for (int64_t o = 0; o < kO; ++o)
        for (int64_t k = 0; k < kK; ++k) {
          const size_t i = size_t(o * kK + k);
          const Grid grid = got.grid(got.grid_index(o, k));
          const float scale = std::fabs(grid.scale), value = got.unrounded[i];
          ASSERT_EQ(nearest_code(value, spec, grid), got.codes[i]);
          ASSERT_LE(std::fabs(value - got.value(o, k)), 0.5001f * scale);
          const float far = std::fabs(expected.unrounded[i] - got.value(o, k)) - 0.5f * scale;
          if (far > 0.0f) {
            ++beyond;
          } else if (far < -1e-4f * scale) {
            ASSERT_NEAR(value, expected.unrounded[i], 1e-4f * scale);
          }
        }
      EXPECT_LT(beyond, kO * kK / 10);
    }
}

TEST(GptqTest, LosesLessThanRounding) {
  Stream stream;
  for (const QuantSpec& spec : specs()) {
    Case c = correlated(3);
    const SolvedMatrix rounded =
        round_to_nearest(c.w_OK.data(), kO, kK, spec, cpu_kernels(), stream);
    const SolvedMatrix solved =
        gptq(c.w_OK.data(), kO, gram_of(c, stream), spec, {}, "w", cpu_kernels(), stream);
    EXPECT_LT(solved.relative_error, 0.75 * error_of(c, rounded)) << spec.bits;
    EXPECT_NEAR(solved.relative_error, error_of(c, solved), 1e-9);
  }
}

TEST(GptqTest, ColumnsThatNeverHadAnInputBecomeZero) {
  Stream stream;
  Case c = correlated(4);
  for (int64_t t = 0; t < kTokens; ++t) c.x_TK[size_t(t * kK + 5)] = 0.0f;
  const QuantSpec spec = spec_of(4, 32, Range::full, ScaleRule::no_clip);
  const SolvedMatrix expected = reference(c, spec, {});
  const SolvedMatrix got =
      gptq(c.w_OK.data(), kO, gram_of(c, stream), spec, {}, "w", cpu_kernels(), stream);
  EXPECT_EQ(got.codes, expected.codes);
  for (int64_t o = 0; o < kO; ++o) EXPECT_EQ(got.value(o, 5), 0.0f);
}

TEST(GptqTest, TheSameBitsForAnyNumberOfThreads) {
  Stream one(1), three(3);
  Case c = correlated(5);
  const Gram a = gram_of(c, one), b = gram_of(c, three);
  ASSERT_TRUE(std::equal(a.sums().begin(), a.sums().end(), b.sums().begin()));
  EXPECT_EQ(a.mean_magnitudes(), b.mean_magnitudes());
  const QuantSpec spec = spec_of(3, 32, Range::asymmetric, ScaleRule::mse);
  const SolvedMatrix p = gptq(c.w_OK.data(), kO, a, spec, {}, "w", cpu_kernels(), one);
  const SolvedMatrix q = gptq(c.w_OK.data(), kO, b, spec, {}, "w", cpu_kernels(), three);
  EXPECT_EQ(p.codes, q.codes);
  EXPECT_EQ(p.scales, q.scales);
  EXPECT_EQ(p.relative_error, q.relative_error);
}

TEST(GptqTest, FewTokensAreDampedUntilTheyCanBeFactored) {
  Stream stream;
  Case c = correlated(6);
  Gram gram(kK);
  gram.add(view_of(c.x_TK, {kTokens, kK}), 8, cpu_kernels(), stream);  // of rank 8
  GptqOptions options;
  options.dampening_frac = 0.0;
  const QuantSpec spec = spec_of(4, 32, Range::full, ScaleRule::mse);
  const SolvedMatrix solved =
      gptq(c.w_OK.data(), kO, gram, spec, options, "w", cpu_kernels(), stream);
  EXPECT_LT(solved.relative_error, 1e-3);  // eight tokens leave room enough
}

TEST(GptqTest, InputsThatAreNotFiniteAreRefusedByName) {
  Stream stream;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Case c = correlated(7);
    c.x_TK[size_t(100 * kK + 3)] = bad;
    try {
      gptq(c.w_OK.data(), kO, gram_of(c, stream), spec_of(4, 32, Range::full, ScaleRule::mse), {},
           "model.layers.1.mlp.up_proj", cpu_kernels(), stream);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::diverged);
      EXPECT_NE(std::string(error.what()).find("the input of model.layers.1.mlp.up_proj"),
                std::string::npos)
          << error.what();
    }
  }
}

// bf16 inputs, in batches with rows that are not counted.
TEST(GramTest, SumsBatchesOfEitherType) {
  Stream stream;
  Case c = correlated(8);
  std::vector<uint16_t> narrow;
  for (float& x : c.x_TK) {
    const BFloat16 value = to_bfloat16(x);
    x = to_float(value);
    narrow.push_back(value.bits);
  }
  const Gram whole = gram_of(c, stream);
  Gram parts(kK);
  const auto at = [&](int64_t row) {
    return View{
        reinterpret_cast<std::byte*>(narrow.data() + row * kK), {kTokens - row, kK}, DType::bf16};
  };
  parts.add(at(0), 300, cpu_kernels(), stream);
  parts.add(at(300), kTokens - 300, cpu_kernels(), stream);
  ASSERT_EQ(parts.tokens(), kTokens);
  for (size_t i = 0; i < parts.sums().size(); ++i)
    ASSERT_NEAR(parts.sums()[i], whole.sums()[i], 1e-3 * std::sqrt(double(kTokens)));
  for (size_t k = 0; k < size_t(kK); ++k)
    ASSERT_FLOAT_EQ(parts.mean_magnitudes()[k], whole.mean_magnitudes()[k]);
}

}  // namespace
}  // namespace qat
