// The low-bit arithmetic against double references, exhaustive where 16 bits allow it, and the
// rules of the systems we deploy to.
#include "kernels/quant_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/random.h"

namespace qat {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNaN = std::nanf("");

// Value of a 16-bit float with `fraction` bits of fraction and exponent bias `bias`.
double value_16(uint16_t bits, int fraction, int bias) {
  const int exponent_bits = 15 - fraction;
  const int exponent = (bits >> fraction) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << fraction) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa == 0 ? sign * double(kInfinity) : std::nan("");
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - fraction);
  return sign * std::ldexp((1 << fraction) + mantissa, exponent - bias - fraction);
}

template <class T>
uint16_t bits_16(float value) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return to_bfloat16(value).bits;
  else
    return to_float16(value).bits;
}

template <class T>
class Float16Test : public testing::Test {
 public:
  static constexpr int kFraction = std::is_same_v<T, BFloat16> ? 7 : 10;
  static constexpr int kBias = std::is_same_v<T, BFloat16> ? 127 : 15;
};
using Floats16 = testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(Float16Test, Floats16);

TYPED_TEST(Float16Test, EveryValueWidensExactlyAndComesBack) {
  for (int bits = 0; bits < 65536; ++bits) {
    const float widened = to_float(TypeParam{uint16_t(bits)});
    const double expected = value_16(uint16_t(bits), this->kFraction, this->kBias);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(widened)) << bits;
      EXPECT_TRUE(std::isnan(to_float(TypeParam{bits_16<TypeParam>(widened)}))) << bits;
      continue;
    }
    ASSERT_EQ(double(widened), expected) << bits;
    ASSERT_EQ(std::signbit(widened), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(bits_16<TypeParam>(widened), bits);
  }
}

TYPED_TEST(Float16Test, RoundsToNearestEven) {
  const uint16_t infinity = uint16_t(((1 << (15 - this->kFraction)) - 1) << this->kFraction);
  for (int low = 0; low + 1 < infinity; ++low) {
    const double a = value_16(uint16_t(low), this->kFraction, this->kBias);
    const double b = value_16(uint16_t(low + 1), this->kFraction, this->kBias);
    const float middle = float((a + b) / 2.0);
    if (double(middle) != (a + b) / 2.0) continue;  // below f32's own subnormals
    const int even = low % 2 == 0 ? low : low + 1;
    ASSERT_EQ(bits_16<TypeParam>(middle), even) << low;
    ASSERT_EQ(bits_16<TypeParam>(-middle), even | 0x8000) << low;
    ASSERT_EQ(bits_16<TypeParam>(std::nextafter(middle, kInfinity)), low + 1) << low;
    ASSERT_EQ(bits_16<TypeParam>(std::nextafter(middle, -kInfinity)), low) << low;
  }
  EXPECT_EQ(bits_16<TypeParam>(kInfinity), infinity);
  EXPECT_EQ(bits_16<TypeParam>(kLargestFloat), infinity);
}

TEST(RoundEvenTest, MatchesTheLibrary) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-300.0f, 300.0f);
  for (int i = 0; i < 100000; ++i) {
    const float value = uniform(generator);
    ASSERT_EQ(round_even(value), std::nearbyint(value)) << value;
  }
  for (int i = -1000; i <= 1000; ++i)
    ASSERT_EQ(round_even(float(i) + 0.5f), std::nearbyint(float(i) + 0.5f));
  EXPECT_EQ(round_even(1e30f), 0x1p22f);
  EXPECT_EQ(round_even(-kInfinity), -0x1p22f);
  EXPECT_FALSE(std::signbit(round_even(-0.25f)));
}

double significant_bits_needed(double value) {
  int exponent = 0;
  double mantissa = std::frexp(std::abs(value), &exponent);
  int bits = 0;
  while (mantissa != 0.0) {
    mantissa = mantissa * 2.0 - std::floor(mantissa * 2.0);
    ++bits;
  }
  return bits;
}

TEST(StoredScaleTest, IsExactInItsTypeNearestAndSafeToDivideBy) {
  std::mt19937 generator(2);
  std::uniform_real_distribution<double> exponent(-40.0, 20.0);
  for (int i = 0; i < 200000; ++i) {
    const float scale = float(std::exp2(exponent(generator)) * (i % 2 == 0 ? 1.0 : -1.0));
    const float bf16 = stored_scale(scale, ScaleType::bf16);
    const float f16 = stored_scale(scale, ScaleType::f16);
    const float portable = stored_scale(scale, ScaleType::portable);
    ASSERT_EQ(stored_scale(scale, ScaleType::f32), scale);
    ASSERT_EQ(to_float(to_bfloat16(bf16)), bf16);
    ASSERT_EQ(to_float(to_float16(f16)), f16);
    ASSERT_EQ(to_float(to_float16(portable)), portable);
    ASSERT_EQ(to_float(to_bfloat16(portable)), portable);
    ASSERT_LE(significant_bits_needed(portable), 8);
    for (float stored : {bf16, f16, portable}) {
      ASSERT_NE(stored, 0.0f);
      ASSERT_TRUE(std::isfinite(stored) && std::isfinite(1.0f / stored));
      ASSERT_EQ(std::signbit(stored), std::signbit(scale));
    }
    if (std::abs(scale) > 0x1p-17f && std::abs(scale) < 65000.0f) {
      ASSERT_LE(std::abs(portable - scale), 0x1p-8f * std::abs(scale) * 1.0001f);
    }
    if (std::abs(scale) > 0x1p-14f && std::abs(scale) < 65000.0f) {
      ASSERT_LE(std::abs(f16 - scale), 0x1p-11f * std::abs(scale) * 1.0001f);
    }
  }
}

TEST(StoredMinimumTest, IsNearestMayBeZeroAndIsNeverInfinite) {
  EXPECT_EQ(bits_of(stored_minimum(-0.0f, ScaleType::f16)), 0u);
  EXPECT_EQ(bits_of(stored_minimum(-1e-12f, ScaleType::f16)), 0u);
  EXPECT_EQ(stored_minimum(0x1p-24f, ScaleType::f16), 0x1p-24f);
  EXPECT_EQ(stored_minimum(-1e30f, ScaleType::f16), -65504.0f);
  EXPECT_EQ(stored_minimum(1e30f, ScaleType::portable), 65280.0f);
  EXPECT_EQ(stored_minimum(-0.1f, ScaleType::f32), -0.1f);
  std::mt19937 generator(9);
  std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
  for (int i = 0; i < 10000; ++i) {
    const float value = uniform(generator);
    ASSERT_EQ(stored_minimum(value, ScaleType::f16), to_float(to_float16(value)));
    ASSERT_EQ(stored_minimum(value, ScaleType::bf16), to_float(to_bfloat16(value)));
  }
}

TEST(StoredScaleTest, DegenerateScales) {
  EXPECT_EQ(stored_scale(0.0f, ScaleType::f32), 0x1p-126f);
  EXPECT_EQ(stored_scale(-0.0f, ScaleType::bf16), 0x1p-126f);
  EXPECT_EQ(stored_scale(0.0f, ScaleType::f16), 0x1p-14f);
  EXPECT_EQ(stored_scale(1e-30f, ScaleType::portable), 0x1p-14f);
  EXPECT_EQ(stored_scale(-1e-44f, ScaleType::f32), -0x1p-126f);
  EXPECT_EQ(stored_scale(1e30f, ScaleType::f16), 65504.0f);
  EXPECT_EQ(stored_scale(-1e30f, ScaleType::portable), -65280.0f);
  EXPECT_EQ(stored_scale(kLargestFloat, ScaleType::bf16), 0x1.FEp127f);
  EXPECT_TRUE(std::isnan(stored_scale(kNaN, ScaleType::portable)));
}

Extent extent_of(const std::vector<float>& x) {
  Extent extent;
  for (float value : x) {
    extent.low = std::min(extent.low, value);
    extent.high = std::max(extent.high, value);
  }
  return extent;
}

Grid grid_of(const QuantSpec& spec, const std::vector<float>& x) {
  const auto larger_magnitude = [](float a, float b) { return std::abs(a) < std::abs(b); };
  const float peak = *std::max_element(x.begin(), x.end(), larger_magnitude);
  return make_grid(spec, extent_of(x), raw_scale(spec, extent_of(x), peak));
}

std::vector<int> codes_of(const QuantSpec& spec, const std::vector<float>& x) {
  const Grid grid = grid_of(spec, x);
  std::vector<int> codes;
  for (float value : x)
    codes.push_back(int(code_of(value, 1.0f / grid.scale, grid.zero, code_range(spec))));
  return codes;
}

TEST(WorkedExampleTest, SymmetricInt8PerRow) {
  const std::vector<float> x = {2.1110f,  0.0346f, 0.2623f, 1.6478f,  0.2410f,
                                -0.0840f, 0.2816f, 0.1709f, -0.7608f, -1.6636f};
  const QuantSpec spec;  // int8, strict, amax
  const Grid grid = grid_of(spec, x);
  EXPECT_NEAR(grid.scale, 0.0166, 5e-5);
  EXPECT_EQ(codes_of(spec, x), (std::vector<int>{127, 2, 16, 99, 14, -5, 17, 10, -46, -100}));
  const std::vector<double> values = {2.1110,  0.0332, 0.2660, 1.6456,  0.2327,
                                      -0.0831, 0.2826, 0.1662, -0.7646, -1.6622};
  const std::vector<double> errors = {0,       0.0013,  -0.0036, 0.0022, 0.0083,
                                      -0.0009, -0.0010, 0.0046,  0.0038, -0.0014};
  const std::vector<int> codes = codes_of(spec, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const float value = value_of(float(codes[i]), grid);
    EXPECT_NEAR(value, values[i], 5.1e-5);
    EXPECT_NEAR(x[i] - value, errors[i], 1.01e-4);  // x and value were rounded to 4 digits first
  }
}

QuantSpec spec_of(int bits, Range range, ScaleRule rule) {
  QuantSpec spec;
  spec.bits = bits;
  spec.range = range;
  spec.rule = rule;
  return spec;
}

TEST(ScaleRuleTest, DividesAsTheTargetsDo) {
  const std::vector<float> x = {-3.0f, 1.0f, 2.25f, 0.5f};
  const auto scale = [&](int bits, Range range, ScaleRule rule) {
    return grid_of(spec_of(bits, range, rule), x).scale;
  };
  EXPECT_EQ(scale(8, Range::strict, ScaleRule::amax), 3.0f / 127.0f);         // vLLM
  EXPECT_EQ(scale(8, Range::full, ScaleRule::half_range), 3.0f / 127.5f);     // torchao int8
  EXPECT_EQ(scale(4, Range::full, ScaleRule::half_range), 3.0f / 7.5f);       // torchao int4
  EXPECT_EQ(scale(4, Range::full, ScaleRule::no_clip), 3.0f / 8.0f);          // NO_CLIPPING_ERR
  EXPECT_EQ(scale(4, Range::full, ScaleRule::signed_max), -3.0f / -8.0f);     // ggml Q4_0
  EXPECT_EQ(scale(5, Range::full, ScaleRule::signed_max), -3.0f / -16.0f);    // ggml Q5_0
  EXPECT_EQ(scale(4, Range::asymmetric, ScaleRule::min_max), 5.25f / 15.0f);  // torchao asymmetric
  const std::vector<float> positive = {-1.0f, 3.0f, 2.0f};
  EXPECT_EQ(grid_of(spec_of(4, Range::full, ScaleRule::no_clip), positive).scale, 3.0f / 7.0f);
  EXPECT_EQ(grid_of(spec_of(4, Range::full, ScaleRule::signed_max), positive).scale, -3.0f / 8.0f);
}

// ggml's Q4_0 codes are min(15, trunc(x / d + 8.5)) - 8: ours where x / d is not a tie.
TEST(ScaleRuleTest, SignedMaxGivesGgmlCodes) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  const QuantSpec spec = spec_of(4, Range::full, ScaleRule::signed_max);
  for (int block = 0; block < 300; ++block) {
    std::vector<float> x(32);
    for (float& value : x) value = normal(generator);
    const float inverse = 1.0f / grid_of(spec, x).scale;
    const std::vector<int> codes = codes_of(spec, x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_EQ(codes[i], std::min(15, int(x[i] * inverse + 8.5f)) - 8);
  }
}

TEST(ScaleRuleTest, HalfRangeClipsAPositiveMaximum) {
  const QuantSpec spec = spec_of(4, Range::full, ScaleRule::half_range);
  EXPECT_FALSE(passes_gradient(3.0f, 1.0f / (3.0f / 7.5f), 0.0f, code_range(spec)));
  EXPECT_EQ(codes_of(spec, {3.0f, -1.0f}).front(), 7);
}

TEST(ScaleRuleTest, AsymmetricRangeHoldsZeroExactly) {
  const QuantSpec spec = spec_of(8, Range::asymmetric, ScaleRule::min_max);
  for (const std::vector<float>& x :
       {std::vector<float>{1.0f, 5.0f}, {-5.0f, -1.0f}, {-1.0f, 3.0f}}) {
    const Grid grid = grid_of(spec, x);
    const float code = code_of(0.0f, 1.0f / grid.scale, grid.zero, code_range(spec));
    EXPECT_EQ(value_of(code, grid), 0.0f);
    EXPECT_EQ(code, grid.zero);
  }
}

TEST(PackTest, RoundTripsAllWidths) {
  std::mt19937 generator(4);
  for (int bits = 2; bits <= 8; ++bits) {
    std::uniform_int_distribution<int> uniform(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
    for (int64_t count : {1, 7, 32, 33, 100}) {
      std::vector<int8_t> codes(static_cast<size_t>(count)), back(codes.size());
      for (int8_t& code : codes) code = int8_t(uniform(generator));
      std::vector<uint32_t> words(size_t(count * bits + 31) / 32, 0xFFFFFFFFu);
      pack_codes(codes.data(), count, bits, words.data());
      unpack_codes(words.data(), count, bits, back.data());
      EXPECT_EQ(codes, back) << bits << " bits, " << count;
    }
  }
}

TEST(PackTest, LayoutOfInt4AndInt3) {
  const std::vector<int8_t> codes = {-8, 7, 0, -1, 1, 2, 3, -4};
  uint32_t word = 0;
  pack_codes(codes.data(), 8, 4, &word);
  EXPECT_EQ(word, 0x4BA978F0u);
  EXPECT_EQ(pack_int4(-8, 7), 0xF0);
  EXPECT_EQ(low_int4(0xF0), -8);
  EXPECT_EQ(high_int4(0xF0), 7);
  std::vector<int8_t> threes(11, 3);  // each 111: the eleventh spans two words
  uint32_t words[2];
  pack_codes(threes.data(), 11, 3, words);
  EXPECT_EQ(words[0], 0xFFFFFFFFu);
  EXPECT_EQ(words[1], 1u);
}

TEST(PhiloxTest, KnownAnswers) {  // Random123's kat_vectors for philox4x32-10
  EXPECT_EQ(philox(0, 0, 0),
            (std::array<uint32_t, 4>{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull),
            (std::array<uint32_t, 4>{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
}

}  // namespace
}  // namespace qat
