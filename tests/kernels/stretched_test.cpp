// The stretched range: as many levels on each side of 0 and none on it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/quant_math.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

QuantSpec stretched(int bits, Per per = Per::group, ScaleRule rule = ScaleRule::amax) {
  return {.bits = bits, .per = per, .group = 24, .range = Range::stretched, .rule = rule};
}

Shape grid_shape(const Shape& x, const QuantSpec& spec) {
  return spec.per == Per::tensor ? Shape{1} : Shape{x.rows(), spec.groups(x.cols())};
}

/// The index of the scale of element i of rows of `cols`.
int64_t scale_at(int64_t i, int64_t cols, const QuantSpec& spec) {
  if (spec.per == Per::tensor) return 0;
  return i / (spec.per == Per::group ? spec.group : cols);
}

struct Quantized {
  Tensor codes, scale, fake;
};

Quantized quantized(Tensor& x, const QuantSpec& spec, DType type = DType::f32) {
  const Shape shape = x.view().shape, grid = grid_shape(shape, spec);
  Quantized q{Tensor(shape, DType::i8), Tensor(grid, DType::f32), Tensor(shape, type)};
  Stream stream(2);
  cpu_kernels().quantize.run({x.view(), {}, {}, q.codes.view(), q.scale.view(), {}, spec}, stream);
  cpu_kernels().fake_quant.run({x.view(), {}, {}, q.fake.view(), q.scale.view(), {}, spec}, stream);
  EXPECT_TRUE(q.codes.guard_intact() && q.scale.guard_intact() && q.fake.guard_intact());
  return q;
}

TEST(StretchedTest, TakesTheNearestLevel) {
  for (const int bits : {2, 3, 4})
    for (const Per per : {Per::tensor, Per::row, Per::group})
      for (const ScaleRule rule : {ScaleRule::amax, ScaleRule::mse}) {
        const QuantSpec spec = stretched(bits, per, rule);
        Tensor x({7, 72}, DType::f32);
        x.fill_normal(unsigned(bits), 1.0);
        Quantized q = quantized(x, spec);
        std::set<double> seen;
        for (int64_t i = 0; i < x.count(); ++i) {
          const double scale = q.scale[scale_at(i, 72, spec)];
          const double half = std::ldexp(1.0, bits - 1);
          const double code = std::clamp(std::floor(x[i] / scale), -half, half - 1.0);
          ASSERT_EQ(q.codes[i], code) << bits << " bits, element " << i;
          ASSERT_NEAR(q.fake[i], (code + 0.5) * scale, 1e-6 * scale * half);
          seen.insert(code);
        }
        EXPECT_EQ(seen.size(), size_t(1) << bits);
      }
}

TEST(StretchedTest, TheLargestLiesAtTheEndOfTheLastCell) {
  Tensor x({1, 24}, DType::f32);
  x.fill_normal(3, 1.0).set(5, -4.0);
  EXPECT_FLOAT_EQ(float(quantized(x, stretched(2)).scale[0]), 2.0f);
  EXPECT_FLOAT_EQ(float(quantized(x, stretched(3)).scale[0]), 1.0f);
  x.fill(0.0);
  EXPECT_EQ(quantized(x, stretched(2)).scale[0], double(kSmallestNormal));
}

// Among the scales that the search tries none has a smaller error.
TEST(StretchedTest, SearchesTheScaleOfLeastError) {
  for (const int64_t length : {24, 40, 600}) {
    QuantSpec spec = stretched(2, Per::row, ScaleRule::mse);
    Tensor x({3, length}, DType::f32);
    x.fill_normal(unsigned(length), 1.0);
    Quantized q = quantized(x, spec);
    for (int64_t row = 0; row < 3; ++row) {
      double amax = 0;
      for (int64_t i = 0; i < length; ++i) amax = std::max(amax, std::abs(x[row * length + i]));
      const auto error = [&](double scale) {
        double sum = 0;
        for (int64_t i = 0; i < length; ++i) {
          const double v = x[row * length + i];
          const double level = std::clamp(std::floor(v / scale), -2.0, 1.0) + 0.5;
          sum += std::pow(level * scale - v, 2);
        }
        return sum;
      };
      double least = INFINITY, scale = amax / 2;
      for (int step = 0; step < kShrinkSteps; ++step, scale *= double(kShrink))
        least = std::min(least, error(scale));
      EXPECT_LT(error(q.scale[row]), least * 1.0001) << length;
      EXPECT_LT(error(q.scale[row]), (length > 100 ? 0.9 : 1.0001) * error(amax / 2));
    }
  }
}

TEST(StretchedTest, DequantizesWhatItFakes) {
  for (const Per per : {Per::tensor, Per::row, Per::group})
    for (const DType type : {DType::f32, DType::bf16}) {
      const QuantSpec spec = stretched(2, per, ScaleRule::mse);
      Tensor x({5, 48}, DType::bf16), y({5, 48}, type);
      x.fill_normal(9, 1.0);
      Quantized q = quantized(x, spec, type);
      Stream stream(1);
      cpu_kernels().dequantize.run({q.codes.view(), q.scale.view(), {}, y.view(), spec}, stream);
      EXPECT_TRUE(y.same_bits(q.fake));
    }
}

// Values within the outer cells keep their gradient; beyond them it is 0.
TEST(StretchedTest, PassesGradientsInsideTheCells) {
  const QuantSpec spec = stretched(2, Per::row);
  Tensor x({1, 6}, DType::f32), dy({1, 6}, DType::f32), dx({1, 6}, DType::f32);
  Tensor scale({1, 1}, DType::f32);
  scale.fill(1.0);
  dy.fill(3.0);
  const double values[] = {-2.6, -1.9, -0.1, 0.3, 1.9, 2.6};
  for (int64_t i = 0; i < 6; ++i) x.set(i, values[i]);
  Stream stream(1);
  cpu_kernels().fake_quant_backward.run({dy.view(), x.view(), scale.view(), {}, dx.view(), spec},
                                        stream);
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(dx[i], i == 0 || i == 5 ? 0.0 : 3.0) << i;
}

// LSQ's gradient: by parts of the value's own formula, in double.
TEST(StretchedTest, TrainsItsScales) {
  for (const Per per : {Per::tensor, Per::row, Per::group}) {
    const QuantSpec spec = stretched(2, per);
    Tensor x({4, 48}, DType::f32), dy({4, 48}, DType::f32), dx({4, 48}, DType::f32);
    x.fill_normal(1, 1.0);
    dy.fill_normal(2, 1.0);
    const Shape grid = grid_shape({4, 48}, spec);
    Tensor scale(grid, DType::f32), dscale(grid, DType::f32);
    scale.fill(0.7);
    TrainedScaleBackward args{dy.view(),     x.view(), scale.view(), {},   dx.view(),
                              dscale.view(), {},       spec,         0.25f};
    Tensor scratch = test::scratch_for(cpu_kernels().trained_scale_backward, args);
    args.scratch = scratch.view();
    Stream stream(2);
    cpu_kernels().trained_scale_backward.run(args, stream);
    std::vector<double> expected(size_t(grid.count()));
    for (int64_t i = 0; i < x.count(); ++i) {
      const double s = scale[0], position = x[i] / s;
      const bool inside = std::abs(position) <= 2.0;
      const double level = std::clamp(std::floor(position), -2.0, 1.0) + 0.5;
      expected[size_t(scale_at(i, 48, spec))] += 0.25 * dy[i] * (inside ? level - position : level);
      EXPECT_EQ(dx[i], inside ? dy[i] : 0.0);
      const ScaleSlope same = stretched_slope(float(x[i]), 1.0f / float(s), code_range(spec));
      EXPECT_NEAR(same.slope, inside ? level - position : level, 1e-5);
      EXPECT_EQ(same.inside, inside);
    }
    EXPECT_LT(test::relative_error(dscale, expected), 1e-5);
  }
}

// Scales of frozen codes: the value of a code is (code + 1/2) scales.
TEST(StretchedTest, GradientsOfStoredScalesCountFromHalf) {
  const QuantSpec spec = stretched(2);
  Tensor codes({2, 48}, DType::i8), dy({2, 48}, DType::f32), dscale({2, 2}, DType::f32);
  codes.fill_integers(1, -2, 1);
  dy.fill_normal(2, 1.0);
  ScaleGradient args{};
  args.dy = dy.view();
  args.codes = codes.view();
  args.dscale = dscale.view();
  args.spec = spec;
  Stream stream(1);
  cpu_kernels().scale_gradient.run(args, stream);
  std::vector<double> expected(4);
  for (int64_t i = 0; i < 96; ++i) expected[size_t(i / 24)] += dy[i] * (codes[i] + 0.5);
  EXPECT_LT(test::relative_error(dscale, expected), 1e-6);
}

}  // namespace
}  // namespace qat
