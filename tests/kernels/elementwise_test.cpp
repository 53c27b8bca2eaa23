// Cast, add, fill, embedding, bias, column sum, rotary embedding and SwiGLU against doubles, with
// the same bits for any number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

class ElementwiseTest : public testing::TestWithParam<DType> {
 protected:
  DType type() const { return GetParam(); }
  double tolerance() const { return type() == DType::f32 ? 4e-7 : 4e-3; }
};
INSTANTIATE_TEST_SUITE_P(Types, ElementwiseTest, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

/// Runs for 1, 2 and 3 threads on copies of `out` and expects the same bits, guards included.
Tensor run_on_threads(const Tensor& out, const std::function<void(Tensor&, Stream&)>& run) {
  std::vector<Tensor> results;
  for (int threads : {1, 2, 3}) {
    Tensor copy = out;
    Stream stream(threads);
    run(copy, stream);
    EXPECT_TRUE(copy.guard_intact());
    results.push_back(copy);
  }
  EXPECT_TRUE(results[0].same_bits(results[1]) && results[0].same_bits(results[2]));
  return results[0];
}

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

TEST_P(ElementwiseTest, CastRoundsToNearest) {
  for (DType to : {DType::f32, DType::bf16}) {
    Tensor x({101, 337}, type()), y({101, 337}, to);
    x.fill_normal(1, 1.0);
    y = run_on_threads(y, [&](Tensor& out, Stream& s) {
      cpu_kernels().cast.run({x.view(), out.view()}, s);
    });
    for (int64_t i = 0; i < x.count(); ++i)
      ASSERT_EQ(y[i], to == DType::f32 ? x[i] : to_float(to_bfloat16(float(x[i]))));
  }
}

// The vector conversion treats every kind of float as the scalar one does.
TEST(CastTest, EveryUpperHalfWithAwkwardLowerHalves) {
  Tensor x({65536 * 4}, DType::f32), y({65536 * 4}, DType::bf16);
  const uint32_t lower[4] = {0x0000, 0x7FFF, 0x8000, 0x8001};
  for (uint32_t i = 0; i < 65536 * 4; ++i)
    x.view().as<uint32_t>()[i] = (i / 4) << 16 | lower[i % 4];
  Stream stream(1);
  cpu_kernels().cast.run({x.view(), y.view()}, stream);
  for (int64_t i = 0; i < x.count(); ++i)
    ASSERT_EQ(y.view().as<uint16_t>()[i], to_bfloat16(x.view().as<float>()[i]).bits) << i;
}

TEST_P(ElementwiseTest, AddIntoEitherOperand) {
  Tensor a({257, 129}, type()), b({257, 129}, type());
  a.fill_normal(2, 1.0);
  b.fill_normal(3, 1.0);
  const Tensor y = run_on_threads(a, [&](Tensor& out, Stream& s) {
    cpu_kernels().add.run({out.view(), b.view(), out.view()}, s);
  });
  for (int64_t i = 0; i < a.count(); ++i)
    ASSERT_NEAR(y[i], a[i] + b[i], tolerance() * (std::abs(a[i]) + std::abs(b[i])));
}

TEST_P(ElementwiseTest, Fill) {
  const Tensor y = run_on_threads(Tensor({40000}, type()), [&](Tensor& out, Stream& s) {
    cpu_kernels().fill.run({out.view(), 1.5f}, s);
  });
  for (int64_t i = 0; i < y.count(); ++i) ASSERT_EQ(y[i], 1.5);
}

TEST_P(ElementwiseTest, EmbeddingTakesRows) {
  for (DType table_type : {DType::f32, DType::bf16}) {
    Tensor table({50, 77}, table_type), ids({300}, DType::i32);
    table.fill_normal(4, 1.0);
    ids.fill_integers(5, 0, 49);
    const Tensor y = run_on_threads(Tensor({300, 77}, type()), [&](Tensor& out, Stream& s) {
      cpu_kernels().embedding.run({table.view(), ids.view(), out.view()}, s);
    });
    for (int64_t t = 0; t < 300; ++t)
      for (int64_t c = 0; c < 77; ++c) {
        const double expected = table[int64_t(ids[t]) * 77 + c];
        ASSERT_EQ(y[t * 77 + c],
                  type() == DType::f32 ? expected : to_float(to_bfloat16(float(expected))));
      }
  }
}

TEST_P(ElementwiseTest, EmbeddingBackwardSumsInTokenOrder) {
  Tensor dy({700, 200}, type()), ids({700}, DType::i32), start({11, 200}, DType::f32);
  dy.fill_normal(6, 1.0);
  ids.fill_integers(7, 0, 9);  // row 10 gets nothing
  start.fill_normal(8, 1.0);
  for (bool accumulate : {false, true}) {
    const Tensor dtable = run_on_threads(start, [&](Tensor& out, Stream& s) {
      cpu_kernels().embedding_backward.run({dy.view(), ids.view(), out.view(), accumulate}, s);
    });
    std::vector<float> expected(11 * 200, 0.0f);
    if (accumulate)
      for (size_t i = 0; i < expected.size(); ++i) expected[i] = float(start[int64_t(i)]);
    for (int64_t t = 0; t < 700; ++t)
      for (int64_t c = 0; c < 200; ++c)
        expected[size_t(int64_t(ids[t]) * 200 + c)] += float(dy[t * 200 + c]);
    for (int64_t i = 0; i < dtable.count(); ++i) ASSERT_EQ(dtable[i], expected[size_t(i)]);
  }
}

TEST_P(ElementwiseTest, BiasAdd) {
  Tensor y0({333, 71}, type()), bias({71}, DType::f32);
  y0.fill_normal(9, 1.0);
  bias.fill_normal(10, 1.0);
  const Tensor y = run_on_threads(y0, [&](Tensor& out, Stream& s) {
    cpu_kernels().bias_add.run({bias.view(), out.view()}, s);
  });
  for (int64_t i = 0; i < y.count(); ++i)
    ASSERT_NEAR(y[i], y0[i] + bias[i % 71],
                tolerance() * (std::abs(y0[i]) + std::abs(bias[i % 71])));
}

TEST_P(ElementwiseTest, ColumnSum) {
  for (int64_t rows : {1, 64, 65, 1000})
    for (bool accumulate : {false, true}) {
      Tensor x({rows, 143}, type()), start({143}, DType::f32);
      x.fill_normal(11, 1.0);
      start.fill_normal(12, 1.0);
      const Tensor out = run_on_threads(start, [&](Tensor& result, Stream& s) {
        ColumnSum args{x.view(), result.view(), {}, accumulate};
        Tensor scratch = test::scratch_for(cpu_kernels().column_sum, args);
        args.scratch = scratch.view();
        cpu_kernels().column_sum.run(args, s);
        EXPECT_TRUE(scratch.guard_intact());
      });
      for (int64_t c = 0; c < 143; ++c) {
        double expected = accumulate ? start[c] : 0.0;
        for (int64_t r = 0; r < rows; ++r) expected += x[r * 143 + c];
        ASSERT_NEAR(out[c], expected, 1e-4);
      }
    }
}

TEST_P(ElementwiseTest, RopeRotatesHalvesAndBack) {
  constexpr int64_t kTokens = 90, kHeads = 5, kPositions = 40;
  for (int dim : {2, 24, 64, 128}) {
    Tensor x({kTokens, kHeads * dim}, type()), positions({kTokens}, DType::i32),
        table({kPositions, dim}, DType::f32);
    x.fill_normal(13, 1.0);
    positions.fill_integers(14, 0, kPositions - 1);
    for (int64_t p = 0; p < kPositions; ++p)
      for (int i = 0; i < dim / 2; ++i) {
        const double angle = double(p) * std::pow(10000.0, -2.0 * i / dim);
        table.set(p * dim + i, std::cos(angle));
        table.set(p * dim + dim / 2 + i, std::sin(angle));
      }
    const auto rotate = [&](float sign) {
      return [&, sign](Tensor& out, Stream& s) {
        cpu_kernels().rope.run({out.view(), positions.view(), table.view(), out.view(), dim, sign},
                               s);
      };
    };
    const Tensor y = run_on_threads(x, rotate(1.0f));
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t h = 0; h < kHeads; ++h)
        for (int i = 0; i < dim / 2; ++i) {
          const double angle = positions[t] * std::pow(10000.0, -2.0 * i / dim);
          const int64_t at = (t * kHeads + h) * dim + i;
          const double a = x[at], b = x[at + dim / 2];
          const double size = std::abs(a) + std::abs(b);
          ASSERT_NEAR(y[at], a * std::cos(angle) - b * std::sin(angle), 2 * tolerance() * size);
          ASSERT_NEAR(y[at + dim / 2], b * std::cos(angle) + a * std::sin(angle),
                      2 * tolerance() * size);
        }
    const Tensor back = run_on_threads(y, rotate(-1.0f));
    for (int64_t i = 0; i < x.count(); ++i) ASSERT_NEAR(back[i], x[i], 10 * tolerance());
  }
}

TEST_P(ElementwiseTest, SwiGlu) {
  Tensor gate({130, 301}, type()), up({130, 301}, type());
  gate.fill_normal(15, 6.0);
  up.fill_normal(16, 1.0);
  const std::vector<double> extremes = {0.0, -0.0, 80.0, -80.0, 200.0, -200.0, 1e-30, 3e38, -3e38};
  for (size_t i = 0; i < extremes.size(); ++i) gate.set(int64_t(i), extremes[i]);
  const Tensor y = run_on_threads(Tensor({130, 301}, type()), [&](Tensor& out, Stream& s) {
    cpu_kernels().swiglu.run({gate.view(), up.view(), out.view()}, s);
  });
  for (int64_t i = 0; i < y.count(); ++i) {
    const double expected = std::abs(gate[i]) < 1e30 ? silu(gate[i]) * up[i]
                            : gate[i] > 0            ? double(float(gate[i] * up[i]))
                                                     : 0.0;
    // A gate below -87 gives less than 1e-35 of itself, whatever its exact value.
    ASSERT_NEAR(y[i], expected, tolerance() * std::abs(expected) + (gate[i] < -80 ? 4.0 : 1e-37))
        << gate[i];
  }
}

TEST_P(ElementwiseTest, SwiGluBackward) {
  const Shape shape{130, 301};
  Tensor gate(shape, type()), up(shape, type()), dy(shape, type());
  gate.fill_normal(17, 4.0);
  up.fill_normal(18, 1.0);
  dy.fill_normal(19, 1.0);
  Tensor dup(shape, type());
  const Tensor dgate = run_on_threads(Tensor(shape, type()), [&](Tensor& out, Stream& s) {
    cpu_kernels().swiglu_backward.run({dy.view(), gate.view(), up.view(), out.view(), dup.view()},
                                      s);
  });
  for (int64_t i = 0; i < dgate.count(); ++i) {
    const double h = 1e-5;
    const double slope = (silu(gate[i] + h) - silu(gate[i] - h)) / (2 * h);
    const double expected = dy[i] * up[i] * slope, expected_up = dy[i] * silu(gate[i]);
    ASSERT_NEAR(dgate[i], expected, 2 * tolerance() * std::abs(dy[i] * up[i]) + 1e-8);
    ASSERT_NEAR(dup[i], expected_up, 2 * tolerance() * std::abs(expected_up) + 1e-37);
  }
}

}  // namespace
}  // namespace qat
