// The grids that are more than integers with a scale each: float8 (e4m3) and ggml's super-blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/quant_math.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Quantized {
  Tensor codes, scale, zero, fake;
};

Quantized run(Tensor& x, const QuantSpec& spec, int threads, DType type = DType::f32) {
  const Shape shape = x.view().shape;
  const Shape grid = spec.per == Per::tensor ? Shape{1} : Shape{shape[0], spec.groups(shape[1])};
  Quantized q{Tensor(shape, DType::i8), Tensor(grid, DType::f32), Tensor(grid, DType::f32),
              Tensor(shape, type)};
  Stream stream(threads);
  Quantize codes{};
  codes.x = x.view();
  codes.codes = q.codes.view();
  codes.scale = q.scale.view();
  codes.zero = q.zero.view();
  codes.spec = spec;
  cpu_kernels().quantize.run(codes, stream);
  Tensor scale(grid, DType::f32), zero(grid, DType::f32), y(shape, type);
  FakeQuant fake{};
  fake.x = x.view();
  fake.y = q.fake.view();
  fake.scale = scale.view();
  fake.zero = zero.view();
  fake.spec = spec;
  cpu_kernels().fake_quant.run(fake, stream);
  cpu_kernels().dequantize.run({q.codes.view(), q.scale.view(), q.zero.view(), y.view(), spec},
                               stream);
  EXPECT_TRUE(scale.same_bits(q.scale));
  EXPECT_TRUE(zero.same_bits(q.zero));
  EXPECT_TRUE(y.same_bits(q.fake)) << "fake_quant is dequantize(quantize)";
  EXPECT_TRUE(q.codes.guard_intact() && q.scale.guard_intact() && q.fake.guard_intact());
  return q;
}

double relative_error(const Tensor& x, const Tensor& y) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < x.count(); ++i) {
    error += (x[i] - y[i]) * (x[i] - y[i]);
    size += x[i] * x[i];
  }
  return std::sqrt(error / size);
}

QuantSpec e4m3(Per per, int group = 0) {
  QuantSpec spec;
  spec.per = per;
  spec.group = group;
  spec.form = Form::e4m3;
  return spec;
}

TEST(E4m3Test, EveryCodeReadsBack) {
  EXPECT_EQ(e4m3_value(0x7E), 448.0f);
  EXPECT_EQ(e4m3_value(0x01), 0x1p-9f);
  EXPECT_EQ(e4m3_value(0x08), 0x1p-6f);
  EXPECT_EQ(e4m3_value(0xB8), -1.0f);
  EXPECT_TRUE(is_nan(e4m3_value(0x7F)) && is_nan(e4m3_value(0xFF)));
  for (int code = 0; code < 256; ++code)
    if ((code & 0x7F) != 0x7F) {
      EXPECT_EQ(int(e4m3_code(e4m3_value(uint8_t(code)))), code);
      EXPECT_EQ(bits_of(round_e4m3(e4m3_value(uint8_t(code)))), bits_of(e4m3_value(uint8_t(code))));
    }
  EXPECT_EQ(int(e4m3_code(std::nanf(""))), 0x7F);
}

// Halfway between two codes the even one is nearest; beyond the last there is nothing.
TEST(E4m3Test, RoundsToTheNearestHalfToEvenAndSaturates) {
  for (int code = 0; code < 0x7E; ++code) {
    const float low = e4m3_value(uint8_t(code)), high = e4m3_value(uint8_t(code + 1));
    const float middle = low + (high - low) * 0.5f;
    EXPECT_EQ(int(e4m3_code(middle)), code + code % 2) << low;
    EXPECT_EQ(int(e4m3_code(std::nextafter(middle, 0.0f))), code);
    EXPECT_EQ(int(e4m3_code(std::nextafter(middle, 1e9f))), code + 1);
    EXPECT_EQ(int(e4m3_code(-middle)), (code + code % 2) | 0x80);
  }
  for (const float beyond : {449.0f, 464.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(int(e4m3_code(beyond)), 0x7E);
    EXPECT_EQ(int(e4m3_code(-beyond)), 0xFE);
  }
}

TEST(E4m3Test, KernelsAgreeWithTheScalarArithmetic) {
  for (const Shape& shape : {Shape{5, 96}, Shape{37, 1001}, Shape{3, 7}})
    for (const QuantSpec& spec : {e4m3(Per::row), e4m3(Per::tensor)})
      for (DType type : {DType::f32, DType::bf16}) {
        Tensor x(shape, type);
        x.fill_normal(1, 1.0);
        for (int64_t i = 0; i < x.count(); i += 5) x.set(i, x[i] * 1e-3);  // subnormal codes
        Quantized q = run(x, spec, 2, type);
        for (int64_t i = 0; i < x.count(); ++i) {
          const float scale = float(q.scale[spec.per == Per::tensor ? 0 : i / shape[1]]);
          ASSERT_EQ(uint8_t(q.codes[i]), e4m3_code(float(x[i]) * (1.0f / scale)));
        }
        EXPECT_LT(relative_error(x, q.fake), 0.03);
        EXPECT_TRUE(run(x, spec, 1, type).codes.same_bits(run(x, spec, 3, type).codes));
      }
}

TEST(E4m3Test, TheGradientStopsWhereCodesSaturate) {
  Tensor x({1, 8}, DType::f32), dy({1, 8}, DType::f32), dx({1, 8}, DType::f32);
  Tensor scale({1, 1}, DType::f32);
  scale.fill(2.0);
  dy.fill(3.0);
  const double values[8] = {0.0, 896.0, -896.0, 927.0, -928.0, 929.0, -1e4, 1e-9};
  for (int i = 0; i < 8; ++i) x.set(i, values[i]);
  Stream stream(1);
  cpu_kernels().fake_quant_backward.run(
      {dy.view(), x.view(), scale.view(), {}, dx.view(), e4m3(Per::row)}, stream);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(dx[i], std::abs(values[i]) <= 928.0 ? 3.0 : 0.0) << i;
  EXPECT_FALSE(e4m3(Per::row).can_clip());
}

/// Every scale (and minimum) is a whole multiple, in its range, of one number that f16 holds.
void expect_super_blocks(const Quantized& q, const QuantSpec& spec) {
  const int count = kSuperBlock / spec.group;
  for (int64_t block = 0; block < q.scale.count(); block += count) {
    const auto check = [&](const Tensor& numbers, double sign, int low, int high) {
      double peak = 0;
      for (int j = 0; j < count; ++j)
        if (std::abs(numbers[block + j]) > std::abs(peak)) peak = numbers[block + j];
      if (peak == 0) return;
      const double unit = peak * sign / (low < 0 ? low : high);
      EXPECT_EQ(to_float(to_float16(float(unit))), unit);
      for (int j = 0; j < count; ++j) {
        const double times = numbers[block + j] * sign / unit;
        EXPECT_EQ(times, std::nearbyint(times));
        EXPECT_TRUE(times >= low && times <= high) << times;
      }
    };
    if (spec.form == Form::q4_k) {
      check(q.scale, 1, 1, 63);
      check(q.zero, -1, 0, 63);
    } else {
      check(q.scale, 1, -128, 127);
    }
  }
}

TEST(SuperBlockTest, ScalesAreMultiplesAndErrorsThoseOfGgml) {
  // Relative errors of ggml's own encoders on Gaussian values: 0.0719 (Q4_K), 0.0178 (Q6_K).
  for (const auto& [spec, most] : {std::pair{q4_k_grid(), 0.0722}, {q6_k_grid(), 0.0180}})
    for (DType type : {DType::f32, DType::bf16}) {
      Tensor x({37, 768}, type);
      x.fill_normal(2, 0.02);
      Quantized q = run(x, spec, 2, type);
      expect_super_blocks(q, spec);
      EXPECT_LT(relative_error(x, run(x, spec, 1).fake), most);
      for (int64_t i = 0; i < x.count(); ++i)
        ASSERT_TRUE(q.codes[i] >= spec.qmin() && q.codes[i] <= spec.qmax());
      for (int threads : {1, 3}) {
        Quantized other = run(x, spec, threads, type);
        EXPECT_TRUE(other.codes.same_bits(q.codes) && other.scale.same_bits(q.scale) &&
                    other.zero.same_bits(q.zero));
      }
    }
}

TEST(SuperBlockTest, CodesAreTheNearestOnTheStoredGrid) {
  for (const QuantSpec& spec : {q4_k_grid(), q6_k_grid()}) {
    Tensor x({3, 512}, DType::f32);
    x.fill_normal(3, 1.0);
    const Quantized q = run(x, spec, 1);
    for (int64_t i = 0; i < x.count(); ++i) {
      const int64_t s = i / spec.group;
      const Grid grid = stored_grid(spec, float(q.scale[s]), float(q.zero[s]));
      ASSERT_EQ(q.codes[i], code_of(float(x[i]) - grid.minimum, 1.0f / grid.scale, grid.zero,
                                    code_range(spec)));
    }
  }
}

TEST(SuperBlockTest, OddBlocksStayFiniteAndNanStaysInItsOwn) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<double>> rows = {
      {0.0}, {1e-44, -1e-44}, {3e38, -3e38, 1.0},  {kInfinity, 1.0, -kInfinity},
      {5.0}, {-5.0},          {1e-7, 2e-7, -1e-7}, {1.0, std::nan("")}};
  for (const QuantSpec& spec : {q4_k_grid(), q6_k_grid()}) {
    Tensor x({int64_t(rows.size()), 512}, DType::f32);
    for (size_t row = 0; row < rows.size(); ++row)
      for (int64_t i = 0; i < 512; ++i)
        x.set(int64_t(row) * 512 + i, i < 256 ? rows[row][size_t(i) % rows[row].size()] : 1.0);
    Stream stream(2);
    Tensor y({int64_t(rows.size()), 512}, DType::f32);
    FakeQuant fake{};
    fake.x = x.view();
    fake.y = y.view();
    fake.spec = spec;
    cpu_kernels().fake_quant.run(fake, stream);
    for (int64_t i = 0; i < y.count(); ++i) {
      const bool poisoned = i / 512 == 7 && i % 512 < 256;
      ASSERT_EQ(std::isnan(y[i]), poisoned) << i;
      if (i < 256) {
        ASSERT_EQ(y[i], 0.0);
      }
      if (i % 512 >= 256) {
        ASSERT_NEAR(y[i], 1.0, 1e-3);
      }
    }
    for (int row : {4, 5}) ASSERT_NEAR(y[row * 512 + 9], rows[size_t(row)][0], 5e-3);
  }
}

TEST(SuperBlockTest, TheGradientStopsWhereCodesSaturate) {
  for (const QuantSpec& spec : {q4_k_grid(), q6_k_grid()}) {
    Tensor x({9, 512}, DType::f32), dy({9, 512}, DType::f32), dx({9, 512}, DType::f32);
    x.fill_normal(4, 0.8);
    dy.fill_normal(5, 1.0);
    Quantized q = run(x, spec, 1);
    x.fill_normal(4, 1.0);  // beyond the ends of that grid
    Stream stream(2);
    cpu_kernels().fake_quant_backward.run(
        {dy.view(), x.view(), q.scale.view(), q.zero.view(), dx.view(), spec}, stream);
    int stopped = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      const int64_t s = i / spec.group;
      const Grid grid = stored_grid(spec, float(q.scale[s]), float(q.zero[s]));
      const bool passes = passes_gradient(float(x[i]) - grid.minimum, 1.0f / grid.scale, grid.zero,
                                          code_range(spec));
      ASSERT_EQ(dx[i], passes ? dy[i] : 0.0) << i;
      stopped += !passes;
    }
    EXPECT_GT(stopped, 0);
    EXPECT_TRUE(spec.can_clip());
  }
}

}  // namespace
}  // namespace qat
