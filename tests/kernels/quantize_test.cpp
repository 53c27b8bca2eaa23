// quantize, dequantize, fake_quant and its gradient over every combination of a QuantSpec, against
// a reference written with the scalar arithmetic of quant_math.h and doubles.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/quant_math.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

constexpr int64_t kRows = 5, kCols = 96;

struct Result {
  Tensor codes{{kRows, kCols}, DType::i8};
  Tensor scale{{1}, DType::f32}, zero{{1}, DType::f32};
};

Shape scale_shape(const QuantSpec& spec, int64_t rows, int64_t cols) {
  return spec.per == Per::tensor ? Shape{1} : Shape{rows, spec.groups(cols)};
}

Result quantize(Tensor& x, const QuantSpec& spec, int threads) {
  const Shape shape = x.view().shape;
  Result result{Tensor(shape, DType::i8),
                Tensor(scale_shape(spec, shape.rows(), shape.cols()), DType::f32),
                Tensor(scale_shape(spec, shape.rows(), shape.cols()), DType::f32)};
  Stream stream(threads);
  Quantize args{};
  args.x = x.view();
  args.codes = result.codes.view();
  args.scale = result.scale.view();
  if (!spec.symmetric()) args.zero = result.zero.view();
  args.spec = spec;
  cpu_kernels().quantize.run(args, stream);
  if (spec.symmetric()) result.zero.fill(0.0);
  EXPECT_TRUE(result.codes.guard_intact() && result.scale.guard_intact());
  return result;
}

Tensor dequantize(Result& codes, const QuantSpec& spec, DType type, int threads) {
  Tensor y(codes.codes.view().shape, type);
  Stream stream(threads);
  cpu_kernels().dequantize.run(
      {codes.codes.view(), codes.scale.view(), codes.zero.view(), y.view(), spec}, stream);
  EXPECT_TRUE(y.guard_intact());
  return y;
}

struct Faked {
  Tensor y, scale, zero;
};

Faked fake(Tensor& x, const QuantSpec& spec, DType type, int threads) {
  const Shape shape = x.view().shape;
  Faked result{Tensor(shape, type),
               Tensor(scale_shape(spec, shape.rows(), shape.cols()), DType::f32),
               Tensor(scale_shape(spec, shape.rows(), shape.cols()), DType::f32)};
  Stream stream(threads);
  FakeQuant args{};
  args.x = x.view();
  args.y = result.y.view();
  args.scale = result.scale.view();
  args.zero = result.zero.view();
  args.spec = spec;
  cpu_kernels().fake_quant.run(args, stream);
  EXPECT_TRUE(result.y.guard_intact() && result.scale.guard_intact());
  return result;
}

/// Elements that share scale number `index`.
std::vector<int64_t> members(const QuantSpec& spec, int64_t count, int64_t cols, int64_t index) {
  const int64_t length = spec.per == Per::tensor ? count : spec.per == Per::row ? cols : spec.group;
  std::vector<int64_t> result;
  for (int64_t i = 0; i < length; ++i) result.push_back(index * length + i);
  return result;
}

float code_on(Grid grid, float value, const QuantSpec& spec) {
  return code_of(value - grid.minimum, 1.0f / grid.scale, grid.zero, code_range(spec));
}

double squared_error(const Tensor& x, const std::vector<int64_t>& at, Grid grid,
                     const QuantSpec& spec) {
  double error = 0;
  for (int64_t i : at) {
    const float value = float(x[i]);
    const float code = code_on(grid, value, spec);
    const double difference = (double(code) - grid.zero) * grid.scale + grid.minimum - value;
    error += difference * difference;
  }
  return error;
}

Grid reference_grid(const Tensor& x, const std::vector<int64_t>& at, const QuantSpec& spec) {
  Extent extent;
  if (spec.has_minimum()) extent = {float(x[at[0]]), float(x[at[0]])};
  float peak = 0;
  for (int64_t i : at) {
    const float value = float(x[i]);
    extent.low = std::min(extent.low, value);
    extent.high = std::max(extent.high, value);
    if (std::abs(value) > std::abs(peak)) peak = value;
  }
  float raw = raw_scale(spec, extent, peak);
  Grid best = make_grid(spec, extent, raw);
  if (!is_searched(effective_rule(spec))) return best;
  for (int step = 1; step < kShrinkSteps; ++step) {
    raw *= kShrink;
    const Grid grid = make_grid(spec, extent, raw);
    if (squared_error(x, at, grid, spec) < squared_error(x, at, best, spec)) best = grid;
  }
  return best;
}

std::vector<QuantSpec> all_specs() {
  std::vector<QuantSpec> specs;
  for (int bits = 2; bits <= 8; ++bits)
    for (Per per : {Per::tensor, Per::row, Per::group})
      for (Range range : {Range::strict, Range::full, Range::asymmetric, Range::minimum})
        for (ScaleRule rule :
             {ScaleRule::amax, ScaleRule::half_range, ScaleRule::no_clip, ScaleRule::signed_max,
              ScaleRule::min_max, ScaleRule::mse, ScaleRule::mse_signed})
          for (ScaleType type :
               {ScaleType::f32, ScaleType::bf16, ScaleType::f16, ScaleType::portable})
            specs.push_back({bits, per, 32, range, rule, type, Division::stored});
  return specs;
}

std::string name(const QuantSpec& s) {
  return "bits " + std::to_string(s.bits) + " per " + std::to_string(int(s.per)) + " range " +
         std::to_string(int(s.range)) + " rule " + std::to_string(int(s.rule)) + " type " +
         std::to_string(int(s.scale_type));
}

void check_against_reference(const QuantSpec& spec, Tensor& x) {
  SCOPED_TRACE(name(spec));
  Result result = quantize(x, spec, 1);
  for (int64_t s = 0; s < result.scale.count(); ++s) {
    const auto at = members(spec, x.count(), x.view().cols(), s);
    const Grid grid = stored_grid(spec, float(result.scale[s]), float(result.zero[s]));
    const Grid expected = reference_grid(x, at, spec);
    if (is_searched(effective_rule(spec))) {  // candidates of equal error up to rounding
      ASSERT_LE(squared_error(x, at, grid, spec),
                squared_error(x, at, expected, spec) * (1 + 1e-5) + 1e-30);
    } else {
      ASSERT_EQ(grid.scale, expected.scale);
      ASSERT_EQ(grid.zero, expected.zero);
      ASSERT_EQ(grid.minimum, expected.minimum);
    }
    for (int64_t i : at) ASSERT_EQ(result.codes[i], code_on(grid, float(x[i]), spec));
  }
}

TEST(QuantizeTest, EverySpecMatchesTheReference) {
  Tensor f32({kRows, kCols}, DType::f32), bf16({kRows, kCols}, DType::bf16);
  f32.fill_normal(1, 1.0);
  bf16.fill_normal(2, 0.02);
  for (int64_t i = 0; i < 4; ++i) f32.set(i * kCols, i % 2 == 0 ? 6.0 : -6.0);  // outliers
  for (const QuantSpec& spec : all_specs()) {
    check_against_reference(spec, f32);
    check_against_reference(spec, bf16);
    if (HasFatalFailure()) return;
  }
}

TEST(QuantizeTest, EverySpecFakesWhatItQuantizes) {
  Tensor x({kRows, kCols}, DType::f32), bf16({kRows, kCols}, DType::bf16);
  x.fill_normal(3, 1.0);
  bf16.fill_normal(4, 3.0);
  for (const QuantSpec& spec : all_specs())
    for (Tensor* input : {&x, &bf16})
      for (DType type : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(name(spec));
        Result codes = quantize(*input, spec, 1);
        Faked faked = fake(*input, spec, type, 2);
        ASSERT_TRUE(faked.y.same_bits(dequantize(codes, spec, type, 3)));
        ASSERT_TRUE(faked.scale.same_bits(codes.scale));
        ASSERT_TRUE(faked.zero.same_bits(codes.zero));
      }
}

TEST(QuantizeTest, SameBitsForAnyThreadCountAndOddShapes) {
  for (const Shape& shape : {Shape{37, 1001}, Shape{300, 576}, Shape{1, 70000}, Shape{3, 7}})
    for (Per per : {Per::tensor, Per::row})
      for (ScaleRule rule : {ScaleRule::amax, ScaleRule::signed_max, ScaleRule::mse}) {
        QuantSpec spec{4, per, 0, Range::full, rule, ScaleType::portable};
        Tensor x(shape, DType::bf16);
        x.fill_normal(5, 1.0);
        Result one = quantize(x, spec, 1), two = quantize(x, spec, 2), three = quantize(x, spec, 3);
        EXPECT_TRUE(one.codes.same_bits(two.codes) && one.codes.same_bits(three.codes));
        EXPECT_TRUE(one.scale.same_bits(two.scale) && one.scale.same_bits(three.scale));
        if (x.count() < 100000) check_against_reference(spec, x);
      }
}

TEST(QuantizeTest, GroupsOfEverySize) {
  for (int group : {1, 8, 24, 32, 64, 128, 200, 256, 300})
    for (ScaleRule rule : {ScaleRule::amax, ScaleRule::mse, ScaleRule::mse_signed}) {
      QuantSpec spec{4, Per::group, group, Range::full, rule, ScaleType::f32};
      Tensor x({19, group * 3}, DType::f32);
      x.fill_normal(6, 1.0);
      check_against_reference(spec, x);
      EXPECT_TRUE(quantize(x, spec, 1).codes.same_bits(quantize(x, spec, 3).codes));
    }
}

TEST(QuantizeTest, GivenGridIsTaken) {
  Tensor x({kRows, kCols}, DType::f32), scale({kRows, 3}, DType::f32), zero({kRows, 3}, DType::f32);
  x.fill_normal(7, 1.0);
  for (int64_t i = 0; i < scale.count(); ++i) {
    scale.set(i, 0.1 + 0.01 * double(i));
    zero.set(i, double(i % 5) - 2);
  }
  const QuantSpec spec{4, Per::group, 32, Range::asymmetric, ScaleRule::min_max, ScaleType::f32};
  Tensor codes({kRows, kCols}, DType::i8), y({kRows, kCols}, DType::f32);
  Stream stream(2);
  Quantize args{};
  args.x = x.view();
  args.given_scale = scale.view();
  args.given_zero = zero.view();
  args.codes = codes.view();
  args.spec = spec;
  cpu_kernels().quantize.run(args, stream);
  FakeQuant faked{};
  faked.x = x.view();
  faked.given_scale = scale.view();
  faked.given_zero = zero.view();
  faked.y = y.view();
  faked.spec = spec;
  cpu_kernels().fake_quant.run(faked, stream);
  for (int64_t i = 0; i < x.count(); ++i) {
    const Grid grid{float(scale[i / 32]), float(zero[i / 32])};
    const float code = code_of(float(x[i]), 1.0f / grid.scale, grid.zero, code_range(spec));
    ASSERT_EQ(codes[i], code);
    ASSERT_EQ(y[i], value_of(code, grid));
  }
}

TEST(QuantizeTest, DegenerateRowsStayFinite) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<double>> rows = {{0.0},                 // all zero
                                                 {1e-44, -1e-44, 0.0},  // subnormal
                                                 {1e-38, -3e-38},       // near the smallest normal
                                                 {3e38, -3e38, 1.0},    // near the largest
                                                 {kInfinity, 1.0, -2.0},      // one outlier
                                                 {-kInfinity, kInfinity, 0},  // both ends
                                                 {5.0},                       // constant
                                                 {-5.0}};
  for (DType type : {DType::f32, DType::bf16}) {
    Tensor x({int64_t(rows.size()), 64}, type);
    for (size_t row = 0; row < rows.size(); ++row)
      for (int64_t i = 0; i < 64; ++i)
        x.set(int64_t(row) * 64 + i, rows[row][size_t(i) % rows[row].size()]);
    for (QuantSpec spec : all_specs()) {
      if (spec.per == Per::tensor) continue;
      SCOPED_TRACE(name(spec));
      Faked faked = fake(x, spec, DType::f32, 2);
      for (int64_t s = 0; s < faked.scale.count(); ++s) {
        ASSERT_TRUE(std::isnormal(float(faked.scale[s])) ||
                    (spec.scale_type != ScaleType::f32 && faked.scale[s] != 0.0));
        ASSERT_TRUE(std::isfinite(1.0f / float(faked.scale[s])));
        ASSERT_TRUE(std::isfinite(faked.zero[s]));
      }
      for (int64_t i = 0; i < x.count(); ++i) ASSERT_FALSE(std::isnan(faked.y[i])) << i;
      for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(faked.y[i], 0.0);
    }
  }
}

TEST(QuantizeTest, NanPoisonsItsScaleOnly) {
  for (ScaleRule rule : {ScaleRule::amax, ScaleRule::no_clip, ScaleRule::signed_max, ScaleRule::mse,
                         ScaleRule::mse_signed})
    for (int64_t cols : {64, 600}) {
      Tensor x({3, cols}, DType::bf16);
      x.fill_normal(8, 1.0);
      x.set(cols + 17, std::nan(""));
      const QuantSpec spec{8, Per::row, 0, Range::full, rule, ScaleType::f32};
      Faked faked = fake(x, spec, DType::bf16, 1);
      for (int64_t i = 0; i < x.count(); ++i) EXPECT_EQ(std::isnan(faked.y[i]), i / cols == 1) << i;
    }
}

TEST(FakeQuantBackwardTest, PassesInsideAndStopsOutside) {
  for (const QuantSpec& spec : all_specs())
    for (DType type : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(name(spec));
      Tensor x({kRows, kCols}, type), dy({kRows, kCols}, type), dx({kRows, kCols}, type);
      x.fill_normal(9, 1.0);
      dy.fill_normal(10, 1.0);
      Faked faked = fake(x, spec, type, 1);
      Stream stream(2);
      FakeQuantBackward args{dy.view(),         x.view(),  faked.scale.view(),
                             faked.zero.view(), dx.view(), spec};
      cpu_kernels().fake_quant_backward.run(args, stream);
      ASSERT_TRUE(dx.guard_intact());
      bool all_pass = true;
      for (int64_t s = 0; s < faked.scale.count(); ++s)
        for (int64_t i : members(spec, x.count(), kCols, s)) {
          const Grid grid = stored_grid(spec, float(faked.scale[s]), float(faked.zero[s]));
          const float from_minimum = float(x[i]) - grid.minimum;
          const double position =
              std::nearbyint(from_minimum * (1.0f / grid.scale)) + double(grid.zero);
          const bool inside = position >= spec.qmin() && position <= spec.qmax();
          all_pass = all_pass && inside;
          ASSERT_EQ(dx[i], inside ? dy[i] : 0.0);
        }
      ASSERT_TRUE(all_pass || spec.can_clip());
      args.dx = dy.view();  // in place
      cpu_kernels().fake_quant_backward.run(args, stream);
      ASSERT_TRUE(dy.same_bits(dx));
    }
}

// can_clip() false is a promise: look for a counterexample among many random groups and scales.
TEST(FakeQuantBackwardTest, NothingClipsWhereTheSpecSaysSo) {
  std::mt19937 generator(11);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f), exponent(-60.0f, 60.0f);
  bool half_range_clips = false;
  for (const QuantSpec& spec : all_specs()) {
    if (spec.per != Per::group) continue;
    for (int trial = 0; trial < 200; ++trial) {
      const float factor = std::exp2(exponent(generator));
      float x[8], peak = 0;
      Extent extent;
      if (spec.has_minimum()) extent = {factor, -factor};
      for (float& value : x) {
        value = uniform(generator) * factor;
        if (std::abs(value) > std::abs(peak)) peak = value;
        extent.low = std::min(extent.low, value);
        extent.high = std::max(extent.high, value);
      }
      const Grid grid = make_grid(spec, extent, raw_scale(spec, extent, peak));
      for (float value : x) {
        const bool inside =
            passes_gradient(value - grid.minimum, 1.0f / grid.scale, grid.zero, code_range(spec));
        ASSERT_TRUE(inside || spec.can_clip())
            << name(spec) << " x " << value << " s " << grid.scale;
        half_range_clips |= !inside && spec.rule == ScaleRule::half_range;
      }
    }
  }
  EXPECT_TRUE(half_range_clips);
}

// ggml's quantize_row_q8_0: codes by the exact scale amax / 127, which is stored as f16 beside
// them.
TEST(ExactDivisionTest, IsGgmlsQ8_0) {
  const QuantSpec spec{
      8, Per::group, 32, Range::strict, ScaleRule::amax, ScaleType::f16, Division::exact};
  for (DType type : {DType::f32, DType::bf16})
    for (double size : {1.0, 1e-3, 1e-6, 300.0}) {
      Tensor x({7, 96}, type);
      x.fill_normal(21, size);
      Result result = quantize(x, spec, 2);
      int differ = 0;
      for (int64_t s = 0; s < result.scale.count(); ++s) {
        double amax = 0;
        for (int64_t i = s * 32; i < s * 32 + 32; ++i) amax = std::max(amax, std::abs(x[i]));
        const float exact = float(amax) / 127.0f;
        EXPECT_EQ(result.scale[s], stored_scale(exact, ScaleType::f16));
        for (int64_t i = s * 32; i < s * 32 + 32; ++i) {
          ASSERT_EQ(result.codes[i], std::nearbyint(float(x[i]) * (1.0f / exact)));
          differ += result.codes[i] != code_on({float(result.scale[s]), 0}, float(x[i]), spec);
        }
      }
      EXPECT_GT(differ, 0) << "the rounded scale would have given the same codes";
    }
}

TEST(ExactDivisionTest, TheSameForRowsTensorsAndEveryRuleThatDoesNotSearch) {
  Tensor x({3, 600}, DType::f32);
  x.fill_normal(22, 1.0);
  for (Per per : {Per::tensor, Per::row, Per::group})
    for (Range range : {Range::strict, Range::full, Range::minimum}) {
      const QuantSpec spec{5, per, 24, range, ScaleRule::no_clip, ScaleType::bf16, Division::exact};
      Result result = quantize(x, spec, 1);
      for (int64_t s = 0; s < result.scale.count(); ++s) {
        const auto at = members(spec, x.count(), 600, s);
        Extent extent{float(x[at[0]]), float(x[at[0]])};
        if (range != Range::minimum) extent = {};
        for (int64_t i : at)
          extent = {std::min(extent.low, float(x[i])), std::max(extent.high, float(x[i]))};
        const float raw = raw_scale(spec, extent, 0.0f);
        const Grid grid = stored_grid(spec, float(result.scale[s]), float(result.zero[s]));
        for (int64_t i : at)
          ASSERT_EQ(result.codes[i],
                    code_of(float(x[i]) - grid.minimum, 1.0f / raw, grid.zero, code_range(spec)));
      }
    }
}

// Q4_1: the smallest value is the minimum, the values are not widened to hold 0.
TEST(MinimumTest, CountsFromTheSmallestValue) {
  const QuantSpec spec{4, Per::group, 32, Range::minimum, ScaleRule::min_max, ScaleType::f16};
  Tensor x({2, 64}, DType::f32);
  x.fill_normal(23, 0.01);
  for (int64_t i = 0; i < x.count(); ++i) x.set(i, x[i] + 3.0);
  Result result = quantize(x, spec, 1);
  Tensor y = dequantize(result, spec, DType::f32, 1);
  for (int64_t s = 0; s < 4; ++s) {
    double low = x[s * 32], high = low;
    for (int64_t i = s * 32; i < s * 32 + 32; ++i)
      low = std::min(low, x[i]), high = std::max(high, x[i]);
    EXPECT_NEAR(result.zero[s], low, 3.0 / 2048);
    EXPECT_NEAR(result.scale[s], (high - low) / 15, (high - low) / 15 / 2048);
    for (int64_t i = s * 32; i < s * 32 + 32; ++i) {
      const double value = (result.codes[i] + 8) * result.scale[s] + result.zero[s];
      EXPECT_NEAR(y[i], value, 3e-7);
      EXPECT_NEAR(y[i], x[i], result.scale[s] * 0.5 + 3.0 / 2048);
    }
  }
}

TEST(MseTest, BeatsAmaxAndHalfRange) {
  Tensor x({64, 512}, DType::f32);
  x.fill_normal(12, 0.05);
  const auto error = [&](ScaleRule rule) {
    const QuantSpec spec{4, Per::group, 32, Range::full, rule, ScaleType::portable};
    Faked faked = fake(x, spec, DType::f32, 1);
    double sum = 0;
    for (int64_t i = 0; i < x.count(); ++i) sum += (x[i] - faked.y[i]) * (x[i] - faked.y[i]);
    return sum;
  };
  EXPECT_LT(error(ScaleRule::mse), error(ScaleRule::half_range) * 0.95);
  EXPECT_LT(error(ScaleRule::mse), error(ScaleRule::no_clip) * 0.95);
  EXPECT_LT(error(ScaleRule::mse), error(ScaleRule::amax) * 0.9);
  EXPECT_LT(error(ScaleRule::mse_signed), error(ScaleRule::mse) * 0.93);
  EXPECT_LT(error(ScaleRule::mse_signed), error(ScaleRule::signed_max) * 0.95);
}

}  // namespace
}  // namespace qat
