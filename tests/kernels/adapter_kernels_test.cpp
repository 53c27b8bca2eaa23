// The small kernels that adapters are made of, against doubles.
#include <gtest/gtest.h>

#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

TEST(Dropout, KeepsItsShareAndDependsOnThePlaceAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    constexpr int64_t kRows = 64, kCols = 250;
    Tensor x({kRows, kCols}, dtype), y = x, again = x, rest({kRows - 3, kCols}, dtype);
    x.fill(1.0);
    Tensor position({2}, DType::i64);
    const auto run = [&](Tensor& from, Tensor& to, int64_t step, int64_t row, int threads) {
      position.view().as<int64_t>()[0] = step;
      position.view().as<int64_t>()[1] = row;
      Stream stream(threads);
      cpu_kernels().dropout.run({from.view(), position.view(), to.view(), 0.25f, 99}, stream);
    };
    run(x, y, 7, 0, 2);
    double sum = 0;
    int64_t dropped = 0;
    for (const double value : y.values()) {
      sum += value;
      dropped += value == 0.0;
    }
    EXPECT_NEAR(double(dropped) / double(kRows * kCols), 0.25, 0.015);
    EXPECT_NEAR(sum / double(kRows * kCols), 1.0, 0.02);
    run(x, again, 7, 0, 1);
    EXPECT_TRUE(y.same_bits(again));
    run(x, again, 8, 0, 1);
    EXPECT_FALSE(y.same_bits(again));
    // Rows 3.. of the batch, as a micro-batch of its own.
    Tensor ones({kRows - 3, kCols}, dtype);
    ones.fill(1.0);
    run(ones, rest, 7, 3, 2);
    for (int64_t i = 0; i < rest.count(); ++i) ASSERT_EQ(rest[i], y[i + 3 * kCols]) << i;
  }
}

TEST(ScaleAxis, ScalesColumnsAndRows) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto by : {ScaleAxis::By::column, ScaleAxis::By::row}) {
      Tensor x({9, 37}, dtype), factor({by == ScaleAxis::By::column ? 37 : 9}, DType::f32);
      Tensor bias({37}, DType::f32), y({9, 37}, dtype), wanted({9, 37}, dtype);
      x.fill_normal(1, 1.0);
      factor.fill_normal(2, 1.0);
      bias.fill_normal(3, 1.0);
      Stream stream;
      cpu_kernels().scale_axis.run({x.view(), factor.view(), bias.view(), y.view(), by}, stream);
      for (int64_t i = 0; i < x.count(); ++i) {
        const float f = float(factor[by == ScaleAxis::By::column ? i % 37 : i / 37]);
        wanted.set(i, double(float(x[i]) * f + float(bias[i % 37])));
      }
      EXPECT_TRUE(y.same_bits(wanted));
      cpu_kernels().scale.run({x.view(), y.view(), 1.5f}, stream);
      for (int64_t i = 0; i < x.count(); ++i) wanted.set(i, 1.5 * x[i]);
      EXPECT_TRUE(y.same_bits(wanted));
    }
}

TEST(Dots, SumOverColumnsAndRows) {
  constexpr int64_t kRows = 130, kCols = 45;
  Tensor a({kRows, kCols}, DType::f32), b = a;
  a.fill_normal(1, 1.0);
  b.fill_normal(2, 1.0);
  Tensor by_row({kRows}, DType::f32), by_column({kCols}, DType::f32);
  Stream stream;
  for (const bool accumulate : {false, true}) {
    cpu_kernels().row_dot.run({a.view(), b.view(), by_row.view(), accumulate}, stream);
    ColumnSum args{a.view(), by_column.view(), {}, accumulate, b.view()};
    Tensor scratch = test::scratch_for(cpu_kernels().column_sum, args);
    args.scratch = scratch.view();
    cpu_kernels().column_sum.run(args, stream);
    std::vector<double> rows(kRows), columns(kCols);
    for (int64_t i = 0; i < a.count(); ++i) {
      rows[size_t(i / kCols)] += (accumulate ? 2 : 1) * a[i] * b[i];
      columns[size_t(i % kCols)] += (accumulate ? 2 : 1) * a[i] * b[i];
    }
    EXPECT_LT(test::relative_error(by_row, rows), 1e-6);
    EXPECT_LT(test::relative_error(by_column, columns), 1e-6);
  }
}

TEST(AdapterMerge, AddsTheProductAndMeasuresRows) {
  constexpr int64_t kOut = 300, kIn = 70, kRank = 5;  // more rows than one piece
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tensor w({kOut, kIn}, dtype), a({kRank, kIn}, DType::f32), b({kOut, kRank}, DType::f32);
    w.fill_normal(1, 1.0);
    a.fill_normal(2, 0.3);
    b.fill_normal(3, 0.3);
    std::vector<double> sum = w.values(), norms(kOut);
    for (int64_t o = 0; o < kOut; ++o) {
      for (int64_t k = 0; k < kIn; ++k) {
        for (int64_t r = 0; r < kRank; ++r)
          sum[size_t(o * kIn + k)] += b[o * kRank + r] * a[r * kIn + k];
        norms[size_t(o)] += sum[size_t(o * kIn + k)] * sum[size_t(o * kIn + k)];
      }
      norms[size_t(o)] = std::sqrt(norms[size_t(o)]);
    }
    Tensor y({kOut, kIn}, DType::f32), norm({kOut}, DType::f32), alone = norm;
    Stream stream;
    cpu_kernels().adapter_merge.run({w.view(), a.view(), b.view(), y.view(), norm.view(), {}},
                                    stream);
    EXPECT_LT(test::relative_error(y, sum), 1e-6);
    EXPECT_LT(test::relative_error(norm, norms), 1e-6);
    AdapterMerge args{w.view(), a.view(), b.view(), {}, alone.view(), {}};
    Tensor scratch = test::scratch_for(cpu_kernels().adapter_merge, args);
    args.scratch = scratch.view();
    cpu_kernels().adapter_merge.run(args, stream);
    EXPECT_TRUE(alone.same_bits(norm) && scratch.guard_intact());
  }
}

}  // namespace
}  // namespace qat
