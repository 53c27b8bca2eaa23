// Trained scales: as files hold them, and LSQ's gradients against doubles and against finite
// differences of the function that they are the gradients of.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/quant_math.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

TEST(TrainedScaleTest, IsTheNearestThatAFileHoldsAndNeverBelowZero) {
  const float infinity = std::numeric_limits<float>::infinity();
  Tensor raw({10}, DType::f32), scale({10}, DType::f32);
  const float values[10] = {0.0123456f, -0.5f,    0.0f,        -0.0f,    1e-9f,
                            3e-45f,     infinity, 1.00390625f, 70000.0f, -infinity};
  for (int i = 0; i < 10; ++i) raw.set(i, double(values[i]));
  for (ScaleType type : {ScaleType::f32, ScaleType::bf16, ScaleType::f16, ScaleType::portable}) {
    Stream stream(2);
    cpu_kernels().round_scale.run({raw.view(), scale.view(), type, NegativeScale::zero}, stream);
    EXPECT_TRUE(scale.guard_intact());
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(scale[i], trained_scale(values[i], type)) << i;
      EXPECT_GT(scale[i], 0.0) << i;
      EXPECT_LT(scale[i], infinity) << i;
    }
    EXPECT_NEAR(scale[0], 0.0123456, 0.0123456 / 256);
  }
  raw.fill(std::numeric_limits<double>::quiet_NaN());
  Stream stream(1);
  cpu_kernels().round_scale.run({raw.view(), scale.view(), ScaleType::bf16, NegativeScale::zero},
                                stream);
  EXPECT_TRUE(std::isnan(scale[3])) << "a fault upstream stays visible";
}

struct Gradients {
  Tensor dx, dscale;
};

Gradients gradients(Tensor& dy, Tensor& x, Tensor& scale, Tensor* zero, const QuantSpec& spec,
                    float gain, int threads) {
  Gradients result{Tensor(x.view().shape, dy.dtype()), Tensor(scale.view().shape, DType::f32)};
  TrainedScaleBackward args{
      dy.view(), x.view(), scale.view(), {}, result.dx.view(), result.dscale.view(),
      {},        spec,     gain};
  if (zero) args.zero = zero->view();
  Tensor scratch = test::scratch_for(cpu_kernels().trained_scale_backward, args);
  args.scratch = scratch.view();
  Stream stream(threads);
  cpu_kernels().trained_scale_backward.run(args, stream);
  EXPECT_TRUE(result.dx.guard_intact() && result.dscale.guard_intact() && scratch.guard_intact());
  return result;
}

struct Problem {
  QuantSpec spec;
  DType type;
  Tensor x, dy, scale, zero;

  Problem(const QuantSpec& spec_, DType type_, Shape shape)
      : spec(spec_),
        type(type_),
        x(shape, type),
        dy(shape, DType::f32),
        scale(grid(shape), DType::f32),
        zero(grid(shape), DType::f32) {
    x.fill_normal(1, 1.0);
    dy.fill_normal(2, 1.0);
    zero.fill_integers(3, spec.qmin() / 2, spec.qmax() / 2);
    // A scale at which some elements of each saturate.
    Tensor spread = scale;
    spread.fill_normal(4, 0.2);
    for (int64_t i = 0; i < scale.count(); ++i)
      scale.set(i, 1.5 / double(spec.qmax()) * std::exp(spread[i]));
  }
  Shape grid(Shape shape) const {
    return spec.per == Per::tensor ? Shape{1} : Shape{shape.rows(), spec.groups(shape.cols())};
  }
  int64_t shared() const { return x.count() / scale.count(); }
  Tensor* zeros() { return spec.symmetric() ? nullptr : &zero; }
  double zero_of(int64_t s) const { return spec.symmetric() ? 0.0 : zero[s]; }
};

std::vector<Problem> problems(Shape shape) {
  std::vector<Problem> all;
  for (int bits : {2, 3, 4, 8})
    for (Per per : {Per::tensor, Per::row, Per::group})
      for (Range range : {Range::strict, Range::full, Range::asymmetric})
        for (DType type : {DType::f32, DType::bf16})
          all.emplace_back(QuantSpec{.bits = bits, .per = per, .group = 24, .range = range}, type,
                           shape);
  return all;
}

TEST(TrainedScaleBackwardTest, MatchesDoubles) {
  for (Problem& s : problems({7, 120})) {
    SCOPED_TRACE(testing::Message() << s.spec.bits << " bits, per " << int(s.spec.per) << ", range "
                                    << int(s.spec.range));
    const Gradients got = gradients(s.dy, s.x, s.scale, s.zeros(), s.spec, 0.25f, 1);
    int saturated = 0;
    for (int64_t g = 0; g < s.scale.count(); ++g) {
      double sum = 0.0, size = 0.0;
      for (int64_t i = g * s.shared(); i < (g + 1) * s.shared(); ++i) {
        const double position = s.x[i] / s.scale[g];
        const double low = s.spec.qmin() - s.zero_of(g), high = s.spec.qmax() - s.zero_of(g);
        const bool inside = position >= low && position <= high;
        const double slope = position < low    ? low
                             : position > high ? high
                                               : std::nearbyint(position) - position;
        sum += s.dy[i] * slope;
        size += std::abs(s.dy[i] * slope);
        ASSERT_EQ(got.dx[i], inside ? s.dy[i] : 0.0) << i;
        const ScaleSlope same = scale_slope(float(s.x[i]), 1.0f / float(s.scale[g]),
                                            float(s.zero_of(g)), code_range(s.spec));
        ASSERT_EQ(same.inside, inside);
        ASSERT_NEAR(same.slope, slope, 1e-4);
        saturated += !inside;
      }
      ASSERT_NEAR(got.dscale[g], 0.25 * sum, 2e-6 * size) << g;
    }
    EXPECT_GT(saturated, 0);
    EXPECT_LT(saturated, s.x.count() / 2);
  }
}

// With the rounding errors held, value(x, scale) = scale * (clip(x / scale) + error) is what LSQ
// differentiates.
TEST(TrainedScaleBackwardTest, MatchesFiniteDifferencesOfItsRule) {
  for (Problem& s : problems({3, 48})) {
    const Gradients got = gradients(s.dy, s.x, s.scale, s.zeros(), s.spec, 1.0f, 2);
    for (int64_t g = 0; g < s.scale.count(); ++g) {
      const double low = s.spec.qmin() - s.zero_of(g), high = s.spec.qmax() - s.zero_of(g);
      const auto clip = [&](double x, double scale) { return std::clamp(x / scale, low, high); };
      const double at = s.scale[g], step = 1e-7 * at;
      double difference = 0.0, size = 0.0;
      for (int64_t i = g * s.shared(); i < (g + 1) * s.shared(); ++i) {
        const double x = s.x[i], held = std::nearbyint(clip(x, at)) - clip(x, at);
        const auto value = [&](double by, double scale) {
          return scale * (clip(by, scale) + held);
        };
        difference += s.dy[i] * (value(x, at + step) - value(x, at - step)) / (2 * step);
        size += std::abs(s.dy[i]) * std::max(1.0, std::abs(clip(x, at)));
        const double h = 1e-7;
        ASSERT_NEAR(got.dx[i], s.dy[i] * (value(x + h, at) - value(x - h, at)) / (2 * h), 1e-5);
      }
      ASSERT_NEAR(got.dscale[g], difference, 1e-5 * size) << g;
    }
  }
}

TEST(TrainedScaleBackwardTest, SameBitsForAnyThreadCountAndInPlace) {
  for (Problem& s : problems({37, 1200})) {
    const Gradients one = gradients(s.dy, s.x, s.scale, s.zeros(), s.spec, 0.5f, 1);
    for (int threads : {2, 3}) {
      const Gradients other = gradients(s.dy, s.x, s.scale, s.zeros(), s.spec, 0.5f, threads);
      EXPECT_TRUE(one.dx.same_bits(other.dx) && one.dscale.same_bits(other.dscale));
    }
    Tensor in_place = s.dy, dscale(s.scale.view().shape, DType::f32);
    TrainedScaleBackward args{in_place.view(), s.x.view(), s.scale.view(), {},  in_place.view(),
                              dscale.view(),   {},         s.spec,         0.5f};
    if (s.zeros()) args.zero = s.zero.view();
    Tensor scratch = test::scratch_for(cpu_kernels().trained_scale_backward, args);
    args.scratch = scratch.view();
    Stream stream(2);
    cpu_kernels().trained_scale_backward.run(args, stream);
    EXPECT_TRUE(in_place.same_bits(one.dx) && dscale.same_bits(one.dscale));
  }
}

}  // namespace
}  // namespace qat
