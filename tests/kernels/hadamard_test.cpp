// The rotation kernel against its matrix in double precision, and what makes it a rotation.
#include "kernels/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

/// Rows of x times the matrix, entry by entry from its definition.
std::vector<double> reference(const Tensor& x, int64_t width) {
  const auto [odd, power] = hadamard_order(width);
  std::vector<double> y(size_t(x.count()));
  for (int64_t i = 0; i < x.count(); ++i) {
    const int64_t begin = i / width * width, to = i % width;
    double total = 0;
    for (int64_t from = 0; from < width; ++from) {
      const bool minus = std::popcount(uint64_t(from % power) & uint64_t(to % power)) % 2 == 1;
      total += x[begin + from] * hartley((from / power) * (to / power), odd) * (minus ? -1 : 1);
    }
    y[size_t(i)] = total / std::sqrt(double(width));
  }
  return y;
}

Tensor transformed(Tensor& x, int64_t width, int threads = 2) {
  Tensor y(x.view().shape, x.dtype());
  Hadamard args{};
  args.x_TC = x.view();
  args.y_TC = y.view();
  args.width = width;
  Tensor scratch = test::scratch_for(cpu_kernels().hadamard, args);
  args.scratch = scratch.view();
  Stream stream(threads);
  cpu_kernels().hadamard.run(args, stream);
  EXPECT_TRUE(y.guard_intact() && scratch.guard_intact());
  return y;
}

// Powers of two below and above a vector, an odd order alone, and odd orders beside both.
constexpr int64_t kWidths[] = {1, 2, 8, 16, 64, 512, 3, 43, 12, 172, 96, 576, 1536};

TEST(HadamardTest, IsItsMatrix) {
  for (const int64_t width : kWidths)
    for (const DType type : {DType::f32, DType::bf16}) {
      Tensor x({5, 2 * width}, type);
      x.fill_normal(unsigned(width), 1.0);
      EXPECT_LT(test::relative_error(transformed(x, width), reference(x, width)),
                type == DType::f32 ? 1e-6 : 4e-3)
          << width;
    }
}

TEST(HadamardTest, IsItsOwnInverseAndTranspose) {
  for (const int64_t width : kWidths) {
    Tensor x({3, width}, DType::f32), g({3, width}, DType::f32);
    x.fill_normal(1, 1.0);
    g.fill_normal(2, 1.0);
    Tensor y = transformed(x, width), back = transformed(y, width), dx = transformed(g, width);
    EXPECT_LT(test::relative_error(back, x.values()), 1e-6) << width;
    // <R x, g> = <x, R g>: R is the gradient rule of R.
    double left = 0, right = 0, size = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      left += y[i] * g[i];
      right += x[i] * dx[i];
      size += std::abs(y[i] * g[i]);
    }
    EXPECT_NEAR(left, right, 1e-6 * size) << width;
  }
}

TEST(HadamardTest, SpreadsAnOutlierOverAllColumns) {
  for (const int64_t width : {64, 172, 576, 1536}) {
    Tensor x({1, width}, DType::f32);
    x.fill(0.0).set(width / 3, 100.0);
    Tensor y = transformed(x, width);
    double largest = 0;
    for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::abs(y[i]));
    EXPECT_LT(largest, 100.0 * std::sqrt(2.0 / double(width)) * 1.0001) << width;
  }
}

TEST(HadamardTest, TheSameBitsForAnyNumberOfThreadsAndInPlace) {
  for (const int64_t width : {16, 172, 1536}) {
    Tensor x({67, width}, DType::bf16);
    x.fill_normal(3, 1.0);
    Tensor one = transformed(x, width, 1);
    for (const int threads : {2, 3}) EXPECT_TRUE(transformed(x, width, threads).same_bits(one));
    Hadamard args{};
    args.x_TC = x.view();
    args.y_TC = x.view();
    args.width = width;
    Tensor scratch = test::scratch_for(cpu_kernels().hadamard, args);
    args.scratch = scratch.view();
    Stream stream(2);
    cpu_kernels().hadamard.run(args, stream);
    EXPECT_TRUE(x.same_bits(one));
  }
}

}  // namespace
}  // namespace qat
