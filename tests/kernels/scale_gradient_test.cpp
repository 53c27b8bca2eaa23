// Codes whose scales are trained, and groups that are not runs of columns, against doubles.
#include <gtest/gtest.h>

#include "kernels/quant_math.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

constexpr int64_t kRows = 13, kCols = 60;

struct Case {
  QuantSpec spec;
  bool listed;
};

class Listed : public testing::TestWithParam<Case> {
 protected:
  Listed() {
    const QuantSpec& spec = GetParam().spec;
    codes.fill_integers(1, spec.qmin(), spec.qmax());
    dy.fill_normal(2, 1.0);
    const Shape grids = spec.per == Per::tensor ? Shape{1} : Shape{kRows, spec.groups(kCols)};
    for (Tensor* tensor : {&scale, &second, &gradient}) *tensor = Tensor(grids, DType::f32);
    for (int64_t i = 0; i < scale.count(); ++i) scale.set(i, 0.01 * double(i % 17 + 1));
    if (spec.has_minimum())
      second.fill_normal(3, 1.0);
    else
      second.fill_integers(3, spec.qmin(), spec.qmax());
    for (int64_t k = 0; k < kCols; ++k) group.set(k, double((k * 7) % kCols / 20));
  }

  size_t grid_of(int64_t row, int64_t column) const {
    const QuantSpec& spec = GetParam().spec;
    if (spec.per == Per::tensor) return 0;
    const int64_t in_row = GetParam().listed        ? int64_t(group[column])
                           : spec.per == Per::group ? column / spec.group
                                                    : 0;
    return size_t(row * spec.groups(kCols) + in_row);
  }
  ConstView zero() { return GetParam().spec.symmetric() ? ConstView() : second.view(); }
  ConstView listed() { return GetParam().listed ? ConstView(group.view()) : ConstView(); }

  Tensor codes{{kRows, kCols}, DType::i8}, dy{{kRows, kCols}, DType::f32};
  Tensor scale{{1}, DType::f32}, second = scale, gradient = scale;
  Tensor group{{kCols}, DType::i32};
};

INSTANTIATE_TEST_SUITE_P(
    Grids, Listed,
    testing::Values(
        Case{{.bits = 4, .per = Per::group, .group = 20, .range = Range::full}, false},
        Case{{.bits = 4, .per = Per::group, .group = 20, .range = Range::full}, true},
        Case{{.bits = 3, .per = Per::group, .group = 20, .range = Range::asymmetric}, false},
        Case{{.bits = 3, .per = Per::group, .group = 20, .range = Range::asymmetric}, true},
        Case{{.bits = 4, .per = Per::group, .group = 20, .range = Range::minimum}, false},
        Case{{.bits = 8, .per = Per::row}, false},
        Case{{.bits = 8, .per = Per::tensor, .range = Range::asymmetric}, false}));

TEST_P(Listed, GradientsOfScales) {
  const QuantSpec& spec = GetParam().spec;
  std::vector<double> expected(size_t(gradient.count()), 0.0);
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t k = 0; k < kCols; ++k) {
      const size_t at = grid_of(r, k);
      const double from = spec.symmetric()     ? 0.0
                          : spec.has_minimum() ? double(spec.qmin())
                                               : second[int64_t(at)];
      expected[at] += dy[r * kCols + k] * (codes[r * kCols + k] - from);
    }
  for (const int threads : {1, 3}) {
    Stream stream(threads);
    ScaleGradient args{dy.view(), codes.view(), zero(), listed(), gradient.view(), spec, false};
    cpu_kernels().scale_gradient.run(args, stream);
    EXPECT_LT(test::relative_error(gradient, expected), 1e-6);
    args.accumulate = true;
    cpu_kernels().scale_gradient.run(args, stream);
    std::vector<double> twice = expected;
    for (double& value : twice) value *= 2.0;
    EXPECT_LT(test::relative_error(gradient, twice), 1e-6);
    EXPECT_TRUE(gradient.guard_intact());
  }
}

TEST_P(Listed, ValuesOfCodes) {
  const QuantSpec& spec = GetParam().spec;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tensor y({kRows, kCols}, dtype), wanted = y;
    Stream stream(2);
    cpu_kernels().dequantize.run({codes.view(), scale.view(), zero(), y.view(), spec, listed()},
                                 stream);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t k = 0; k < kCols; ++k) {
        const int64_t at = int64_t(grid_of(r, k));
        const Grid grid =
            stored_grid(spec, float(scale[at]), spec.symmetric() ? 0.0f : float(second[at]));
        wanted.set(r * kCols + k, double(value_of(float(codes[r * kCols + k]), grid)));
      }
    EXPECT_TRUE(y.same_bits(wanted));
  }
}

TEST(RoundScale, IsWhatAFileStores) {
  for (const ScaleType type :
       {ScaleType::f32, ScaleType::bf16, ScaleType::f16, ScaleType::portable}) {
    Tensor x({301}, DType::f32), y = x;
    x.fill_normal(5, 0.01);
    x.set(0, 0.0);
    Stream stream;
    cpu_kernels().round_scale.run({x.view(), y.view(), type, NegativeScale::kept}, stream);
    for (int64_t i = 0; i < x.count(); ++i)
      ASSERT_EQ(float(y[i]), stored_scale(float(x[i]), type)) << i;
    EXPECT_TRUE(y.guard_intact());
  }
}

}  // namespace
}  // namespace qat
