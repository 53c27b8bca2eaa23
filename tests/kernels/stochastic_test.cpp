// Rounding at random: the codes beside a value, each as often as it is near, by counters alone.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Rounded {
  Tensor codes, scale, zero;
};

Rounded round(Tensor& x, const QuantSpec& spec, int64_t step, uint64_t seed, int threads) {
  const Shape shape = x.view().shape;
  const Shape grid =
      spec.per == Per::tensor ? Shape{1} : Shape{shape.rows(), spec.groups(shape.cols())};
  Rounded result{Tensor(shape, DType::i8), Tensor(grid, DType::f32), Tensor(grid, DType::f32)};
  result.zero.fill(0.0);
  Tensor at({1}, DType::i64);
  std::memcpy(at.view().data, &step, sizeof step);
  Quantize args{};
  args.x = x.view();
  args.codes = result.codes.view();
  args.scale = result.scale.view();
  if (!spec.symmetric()) args.zero = result.zero.view();
  args.spec = spec;
  args.noise = {at.view(), seed};
  Stream stream(threads);
  cpu_kernels().quantize.run(args, stream);
  EXPECT_TRUE(result.codes.guard_intact() && result.scale.guard_intact());
  return result;
}

Tensor fake(Tensor& x, const QuantSpec& spec, DType type, int64_t step, uint64_t seed) {
  const Shape shape = x.view().shape;
  const Shape grid =
      spec.per == Per::tensor ? Shape{1} : Shape{shape.rows(), spec.groups(shape.cols())};
  Tensor y(shape, type), scale(grid, DType::f32), zero(grid, DType::f32), at({1}, DType::i64);
  std::memcpy(at.view().data, &step, sizeof step);
  FakeQuant args{};
  args.x = x.view();
  args.y = y.view();
  args.scale = scale.view();
  if (!spec.symmetric()) args.zero = zero.view();
  args.spec = spec;
  args.noise = {at.view(), seed};
  Stream stream(2);
  cpu_kernels().fake_quant.run(args, stream);
  EXPECT_TRUE(y.guard_intact());
  return y;
}

std::vector<QuantSpec> specs() {
  std::vector<QuantSpec> all;
  for (int bits : {2, 4, 8})
    for (Per per : {Per::tensor, Per::row, Per::group})
      for (Range range :
           {Range::strict, Range::full, Range::stretched, Range::asymmetric, Range::minimum})
        all.push_back(
            {.bits = bits, .per = per, .group = 24, .range = range, .rule = ScaleRule::min_max});
  return all;
}

TEST(StochasticTest, TakesTheCodesBesideAValueAsOftenAsTheyAreNear) {
  constexpr int kSteps = 4000;
  const QuantSpec spec{.bits = 4, .per = Per::group, .group = 24};
  Tensor x({3, 48}, DType::f32);
  x.fill_normal(1, 1.0);
  std::vector<double> mean(size_t(x.count()));
  Tensor scale({1}, DType::f32);
  for (int64_t step = 0; step < kSteps; ++step) {
    Rounded rounded = round(x, spec, step, 7, 1);
    for (int64_t i = 0; i < x.count(); ++i) {
      const double position = x[i] / rounded.scale[i / 24], code = rounded.codes[i];
      ASSERT_LE(std::abs(code - position), 1.0 + 1e-5);
      mean[size_t(i)] += code / kSteps;
    }
    if (step == 0) scale = rounded.scale;
  }
  double worst = 0;
  for (int64_t i = 0; i < x.count(); ++i) {
    const double position = x[i] / scale[i / 24];
    const double share = position - std::floor(position);
    const double deviation = std::sqrt(std::max(share * (1 - share), 1e-3) / kSteps);
    worst = std::max(worst, std::abs(mean[size_t(i)] - position) / deviation);
  }
  EXPECT_LT(worst, 4.5);  // of 144 values
}

TEST(StochasticTest, FollowsFromSeedStepAndElementAlone) {
  for (const QuantSpec& spec : specs()) {
    Tensor x({37, 1200}, DType::bf16);
    x.fill_normal(2, 1.0);
    Rounded one = round(x, spec, 5, 9, 1);
    for (int threads : {2, 3})
      EXPECT_TRUE(round(x, spec, 5, 9, threads).codes.same_bits(one.codes));
    EXPECT_FALSE(round(x, spec, 6, 9, 1).codes.same_bits(one.codes));
    EXPECT_FALSE(round(x, spec, 5, 8, 1).codes.same_bits(one.codes));
  }
  // The second half of a tensor rounds as it does in the whole.
  const QuantSpec one_scale{.bits = 4, .per = Per::tensor},
      groups{.bits = 4, .per = Per::group, .group = 24};
  Tensor same({4, 48}, DType::f32);
  for (int64_t i = 0; i < same.count(); ++i) same.set(i, i % 24 ? 0.3 : 1.0);
  EXPECT_TRUE(round(same, one_scale, 1, 1, 1).codes.same_bits(round(same, groups, 1, 1, 1).codes));
}

TEST(StochasticTest, FakesWhatItQuantizes) {
  for (const QuantSpec& spec : specs())
    for (DType type : {DType::f32, DType::bf16}) {
      Tensor x({5, 96}, DType::f32), expected({5, 96}, type);
      x.fill_normal(3, 1.0);
      Rounded rounded = round(x, spec, 3, 4, 1);
      Stream stream(1);
      cpu_kernels().dequantize.run(
          {rounded.codes.view(), rounded.scale.view(), rounded.zero.view(), expected.view(), spec},
          stream);
      EXPECT_TRUE(fake(x, spec, type, 3, 4).same_bits(expected));
    }
}

}  // namespace
}  // namespace qat
