// RMS normalisation and its gradient against doubles and finite differences.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t rows, cols, piece;
};
constexpr Case kCases[] = {
    {1, 16, 16}, {3, 7, 7}, {130, 576, 576}, {70, 9 * 64, 64}, {200, 100, 50}};
constexpr float kEps = 1e-5f;

class RmsNormTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, RmsNormTest, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

double rstd_of(const std::vector<double>& x) {
  double squares = 0;
  for (double value : x) squares += value * value;
  return 1.0 / std::sqrt(squares / double(x.size()) + kEps);
}

TEST_P(RmsNormTest, Forward) {
  for (const Case& c : kCases) {
    Tensor x({c.rows, c.cols}, GetParam()), weight({c.piece}, DType::f32);
    x.fill_normal(1, 2.0);
    weight.fill_normal(2, 1.0);
    std::vector<Tensor> results;
    Tensor rstd({c.rows * c.cols / c.piece}, DType::f32);
    for (int threads : {1, 2, 3}) {
      Tensor y({c.rows, c.cols}, GetParam());
      Stream stream(threads);
      cpu_kernels().rms_norm.run({x.view(), weight.view(), y.view(), rstd.view(), kEps}, stream);
      EXPECT_TRUE(y.guard_intact() && rstd.guard_intact());
      results.push_back(y);
    }
    EXPECT_TRUE(results[0].same_bits(results[1]) && results[0].same_bits(results[2]));
    for (int64_t row = 0; row < rstd.count(); ++row) {
      std::vector<double> values;
      for (int64_t i = 0; i < c.piece; ++i) values.push_back(x[row * c.piece + i]);
      const double expected = rstd_of(values);
      ASSERT_NEAR(rstd[row], expected, 1e-6 * expected);
      for (int64_t i = 0; i < c.piece; ++i) {
        const double value = values[size_t(i)] * expected * weight[i];
        ASSERT_NEAR(results[0][row * c.piece + i], value,
                    (GetParam() == DType::f32 ? 1e-6 : 4e-3) * std::abs(value) + 1e-7);
      }
    }
  }
}

/// sum(dy * norm(x)) of one row, whose gradient the kernel computes.
double objective(const std::vector<double>& x, const std::vector<double>& dy,
                 const std::vector<double>& weight) {
  const double rstd = rstd_of(x);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += dy[i] * x[i] * rstd * weight[i];
  return sum;
}

TEST_P(RmsNormTest, BackwardMatchesFiniteDifferences) {
  for (const Case& c : kCases) {
    const Shape shape{c.rows, c.cols};
    Tensor x(shape, GetParam()), dy(shape, GetParam()), residual(shape, GetParam());
    Tensor weight({c.piece}, DType::f32), start({c.piece}, DType::f32);
    x.fill_normal(3, 1.0);
    dy.fill_normal(4, 1.0);
    residual.fill_normal(5, 1.0);
    weight.fill_normal(6, 1.0);
    start.fill_normal(7, 1.0);
    Tensor y(shape, GetParam()), rstd({c.rows * c.cols / c.piece}, DType::f32);
    Stream one(1);
    cpu_kernels().rms_norm.run({x.view(), weight.view(), y.view(), rstd.view(), kEps}, one);
    for (bool extras : {false, true}) {
      std::vector<Tensor> dxs, dweights;
      for (int threads : {1, 2, 3}) {
        Tensor dx(shape, GetParam()), dweight = start;
        RmsNormBackward args{dy.view(),
                             x.view(),
                             weight.view(),
                             rstd.view(),
                             extras ? ConstView(residual.view()) : ConstView(),
                             dx.view(),
                             dweight.view(),
                             {},
                             extras};
        Tensor scratch = test::scratch_for(cpu_kernels().rms_norm_backward, args);
        args.scratch = scratch.view();
        Stream stream(threads);
        cpu_kernels().rms_norm_backward.run(args, stream);
        EXPECT_TRUE(scratch.guard_intact() && dx.guard_intact() && dweight.guard_intact());
        dxs.push_back(dx);
        dweights.push_back(dweight);
      }
      EXPECT_TRUE(dxs[0].same_bits(dxs[1]) && dxs[0].same_bits(dxs[2]));
      EXPECT_TRUE(dweights[0].same_bits(dweights[1]) && dweights[0].same_bits(dweights[2]));
      std::vector<double> weights, sums(size_t(c.piece), 0.0);
      for (int64_t i = 0; i < c.piece; ++i) weights.push_back(weight[i]);
      for (int64_t row = 0; row < rstd.count(); ++row) {
        std::vector<double> values, upstream;
        for (int64_t i = 0; i < c.piece; ++i) {
          values.push_back(x[row * c.piece + i]);
          upstream.push_back(dy[row * c.piece + i]);
        }
        for (size_t i = 0; i < size_t(c.piece); ++i)
          sums[i] += upstream[i] * values[i] * rstd_of(values);
        if (row > 5 && row + 2 < rstd.count()) continue;
        for (int64_t i = 0; i < c.piece; i += c.piece / 7) {
          const double h = 1e-4, middle = values[size_t(i)];
          values[size_t(i)] = middle + h;
          const double above = objective(values, upstream, weights);
          values[size_t(i)] = middle - h;
          const double below = objective(values, upstream, weights);
          values[size_t(i)] = middle;
          const double expected =
              (above - below) / (2 * h) + (extras ? residual[row * c.piece + i] : 0.0);
          ASSERT_NEAR(dxs[0][row * c.piece + i], expected,
                      GetParam() == DType::f32 ? 2e-5 : 4e-3 * std::abs(expected) + 1e-5);
        }
      }
      for (int64_t i = 0; i < c.piece; ++i)
        ASSERT_NEAR(dweights[0][i], sums[size_t(i)] + (extras ? start[i] : 0.0), 1e-3);
    }
  }
}

}  // namespace
}  // namespace qat
