// The int8 product with scales by group against its definition, integer sums and all, to the bit.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t tokens, outputs, groups, group;
};

// Tokens around the six of a strip and the 512 of a task, outputs around the 32 of a panel, and
// enough of them for several tasks.
constexpr Case kCases[] = {{1, 1, 2, 4},     {5, 31, 3, 8},    {6, 32, 2, 32},   {7, 33, 5, 32},
                           {13, 100, 4, 64}, {513, 65, 3, 32}, {20, 700, 24, 32}};

enum class Codes { random, extreme };
enum class TokenScales { one, by_group };

void check(Codes codes, TokenScales scales, DType out) {
  const auto& kernel = cpu_kernels().matmul_int8_groups;
  if (!kernel) GTEST_SKIP() << "no integer product by group on " << cpu_isa();
  for (const Case& s : kCases) {
    SCOPED_TRACE(testing::Message()
                 << s.tokens << "x" << s.outputs << "x" << s.groups << "*" << s.group);
    const int64_t inputs = s.groups * s.group;
    const int64_t token_scales = scales == TokenScales::one ? 1 : s.groups;
    Tensor a({s.tokens, inputs}, DType::i8), b({s.outputs, inputs}, DType::i8);
    if (codes == Codes::random) {
      a.fill_integers(1, -127, 127);
      b.fill_integers(2, -8, 7);
    } else {
      for (int64_t i = 0; i < a.count(); ++i) a.set(i, i % 3 == 0 ? 127 : -128);
      b.fill(-128);
    }
    Tensor scale_t({s.tokens, token_scales}, DType::f32),
        scale_og({s.outputs, s.groups}, DType::f32);
    scale_t.fill_normal(3, 0.02);
    scale_og.fill_normal(4, 0.01);  // of either sign, as ggml's Q4_0 has them
    Tensor expected({s.tokens, s.outputs}, out);
    const auto va = a.values(), vb = b.values();
    for (int64_t t = 0; t < s.tokens; ++t)
      for (int64_t o = 0; o < s.outputs; ++o) {
        float y = 0;
        for (int64_t g = 0; g < s.groups; ++g) {
          int64_t sum = 0;
          for (int64_t k = g * s.group; k < (g + 1) * s.group; ++k)
            sum += int64_t(va[size_t(t * inputs + k)]) * int64_t(vb[size_t(o * inputs + k)]);
          float scaled = float(sum);
          if (scales == TokenScales::by_group) scaled *= float(scale_t[t * s.groups + g]);
          y = std::fma(scaled, float(scale_og[o * s.groups + g]), y);
        }
        if (scales == TokenScales::one) y *= float(scale_t[t]);
        expected.set(t * s.outputs + o, y);
      }
    for (int threads : {1, 2, 3}) {
      Tensor y({s.tokens, s.outputs}, out);
      Stream stream(threads);
      kernel.run({a.view(), scale_t.view(), b.view(), scale_og.view(), y.view()}, stream);
      EXPECT_TRUE(y.same_bits(expected)) << threads << " threads";
      EXPECT_TRUE(y.guard_intact());
    }
  }
}

TEST(MatmulInt8GroupsTest, OneScaleAToken) {
  check(Codes::random, TokenScales::one, DType::f32);
}
TEST(MatmulInt8GroupsTest, ScalesByGroup) {
  check(Codes::random, TokenScales::by_group, DType::f32);
}
TEST(MatmulInt8GroupsTest, RoundsToBf16) {
  check(Codes::random, TokenScales::one, DType::bf16);
}
TEST(MatmulInt8GroupsTest, ExtremeCodesDoNotSaturate) {
  check(Codes::extreme, TokenScales::one, DType::f32);
}

}  // namespace
}  // namespace qat
