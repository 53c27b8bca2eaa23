// The three forms of matrix product against double sums, and the same bits for any thread count.
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t m, n, k;
};

constexpr Case kCases[] = {{1, 1, 1},      {13, 7, 5},       {3, 33, 65},   {64, 48, 31},
                           {100, 30, 75},  {130, 258, 1000}, {1, 576, 576}, {257, 96, 1537},
                           {40, 1030, 64}, {288, 100, 2049}};

Shape shape_a(const Case& c, MatmulForm form) {
  return form == MatmulForm::tn ? Shape{c.k, c.m} : Shape{c.m, c.k};
}
Shape shape_b(const Case& c, MatmulForm form) {
  return form == MatmulForm::nt ? Shape{c.n, c.k} : Shape{c.k, c.n};
}

std::vector<double> reference(const Tensor& ta, const Tensor& tb, const Tensor& c0, const Case& s,
                              MatmulForm form, bool accumulate) {
  const std::vector<double> a = ta.values(), b = tb.values();
  std::vector<double> c(size_t(s.m * s.n));
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = accumulate ? c0[i * s.n + j] : 0.0;
      for (int64_t k = 0; k < s.k; ++k)
        sum += a[size_t(form == MatmulForm::tn ? k * s.m + i : i * s.k + k)] *
               b[size_t(form == MatmulForm::nt ? j * s.k + k : k * s.n + j)];
      c[size_t(i * s.n + j)] = sum;
    }
  return c;
}

class MatmulTest : public testing::TestWithParam<MatmulForm> {};

void check(MatmulForm form, DType in, DType out, bool accumulate, double tolerance) {
  for (const Case& s : kCases) {
    SCOPED_TRACE(testing::Message() << s.m << "x" << s.n << "x" << s.k);
    Tensor a(shape_a(s, form), in), b(shape_b(s, form), in), c0({s.m, s.n}, out);
    a.fill_normal(1, 1.0);
    b.fill_normal(2, 0.5);
    c0.fill_normal(3, 2.0);
    const auto expected = reference(a, b, c0, s, form, accumulate);
    std::vector<Tensor> results;
    for (int threads : {1, 2, 3, 2}) {
      Tensor c = c0;
      Stream stream(threads);
      cpu_kernels().matmul.run({a.view(), b.view(), c.view(), form, accumulate}, stream);
      EXPECT_TRUE(c.guard_intact());
      results.push_back(c);
    }
    EXPECT_LT(test::relative_error(results[0], expected), tolerance);
    for (const Tensor& other : results) EXPECT_TRUE(results[0].same_bits(other));
  }
}

TEST_P(MatmulTest, F32) {
  check(GetParam(), DType::f32, DType::f32, false, 1e-6);
}
TEST_P(MatmulTest, F32Accumulates) {
  check(GetParam(), DType::f32, DType::f32, true, 1e-6);
}
TEST_P(MatmulTest, Bf16ToF32) {
  check(GetParam(), DType::bf16, DType::f32, false, 1e-6);
}
TEST_P(MatmulTest, Bf16ToF32Accumulates) {
  check(GetParam(), DType::bf16, DType::f32, true, 1e-6);
}
TEST_P(MatmulTest, Bf16ToBf16) {
  check(GetParam(), DType::bf16, DType::bf16, false, 4e-3);
}

INSTANTIATE_TEST_SUITE_P(Forms, MatmulTest,
                         testing::Values(MatmulForm::nt, MatmulForm::nn, MatmulForm::tn),
                         [](const auto& info) {
                           return std::string(info.param == MatmulForm::nt   ? "nt"
                                              : info.param == MatmulForm::nn ? "nn"
                                                                             : "tn");
                         });

TEST(MatmulEdge, NothingToSumGivesZero) {
  Tensor a({3, 0}, DType::f32), b({2, 0}, DType::f32), c({3, 2}, DType::f32);
  c.fill(7);
  Stream stream(2);
  const Matmul args{{a.view().data, {3, 0}, DType::f32},
                    {b.view().data, {2, 0}, DType::f32},
                    c.view(),
                    MatmulForm::nt,
                    false};
  cpu_kernels().matmul.run(args, stream);
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(c[i], 0.0);
}

}  // namespace
}  // namespace qat
