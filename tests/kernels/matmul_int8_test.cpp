// The int8 product against exact integer sums, with the extreme codes that saturate without VNNI.
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t tokens, outputs, inputs;
};

constexpr Case kCases[] = {{1, 1, 1},      {5, 7, 3},      {13, 30, 75},    {64, 48, 64},
                           {2, 576, 1537}, {300, 33, 577}, {257, 260, 130}, {530, 64, 2050}};

enum class Codes { random, all_max, alternating };

void fill(Tensor& t, Codes codes, unsigned seed) {
  if (codes == Codes::random) {
    t.fill_integers(seed, -127, 127);
  } else if (codes == Codes::all_max) {
    t.fill(seed % 2 == 0 ? 127 : -127);
  } else {
    for (int64_t i = 0; i < t.count(); ++i) t.set(i, i % 2 == 0 ? 127 : -128);
  }
}

void check(Codes codes, DType out, bool with_zero) {
  for (const Case& s : kCases) {
    SCOPED_TRACE(testing::Message() << s.tokens << "x" << s.outputs << "x" << s.inputs);
    Tensor a({s.tokens, s.inputs}, DType::i8), b({s.outputs, s.inputs}, DType::i8);
    fill(a, codes, 1);
    fill(b, codes, 2);
    Tensor scale_t({s.tokens}, DType::f32), scale_o({s.outputs}, DType::f32);
    scale_t.fill_normal(3, 0.02);
    scale_o.fill_normal(4, 0.01);
    Tensor zero({s.tokens}, DType::f32), sums({s.outputs}, DType::i32);
    zero.fill_integers(5, -128, 127);
    for (int64_t o = 0; o < s.outputs; ++o) {
      int64_t sum = 0;
      for (int64_t k = 0; k < s.inputs; ++k) sum += int64_t(b[o * s.inputs + k]);
      sums.set(o, double(sum));
    }
    Tensor expected({s.tokens, s.outputs}, out);
    const auto va = a.values(), vb = b.values();
    for (int64_t t = 0; t < s.tokens; ++t)
      for (int64_t o = 0; o < s.outputs; ++o) {
        int64_t sum = 0;
        for (int64_t k = 0; k < s.inputs; ++k)
          sum += (int64_t(va[size_t(t * s.inputs + k)]) - (with_zero ? int64_t(zero[t]) : 0)) *
                 int64_t(vb[size_t(o * s.inputs + k)]);
        expected.set(t * s.outputs + o, float(sum) * (float(scale_t[t]) * float(scale_o[o])));
      }
    for (int threads : {1, 2, 3}) {
      Tensor y({s.tokens, s.outputs}, out);
      MatmulInt8 args;
      args.a_TK = a.view();
      args.scale_T = scale_t.view();
      args.b_OK = b.view();
      args.scale_O = scale_o.view();
      if (with_zero) {
        args.zero_T = zero.view();
        args.sums_O = sums.view();
      }
      args.y_TO = y.view();
      Tensor scratch = test::scratch_for(cpu_kernels().matmul_int8, args);
      args.scratch = scratch.view();
      Stream stream(threads);
      cpu_kernels().matmul_int8.run(args, stream);
      EXPECT_TRUE(scratch.guard_intact());
      EXPECT_TRUE(y.same_bits(expected)) << threads << " threads";
    }
  }
}

TEST(MatmulInt8Test, RandomCodesF32) {
  check(Codes::random, DType::f32, false);
}
TEST(MatmulInt8Test, RandomCodesBf16) {
  check(Codes::random, DType::bf16, false);
}
TEST(MatmulInt8Test, RandomCodesWithZeroPoints) {
  check(Codes::random, DType::f32, true);
}
TEST(MatmulInt8Test, ExtremeCodesDoNotSaturate) {
  check(Codes::all_max, DType::f32, false);
}
TEST(MatmulInt8Test, AlternatingExtremes) {
  check(Codes::alternating, DType::f32, false);
}
TEST(MatmulInt8Test, AlternatingExtremesWithZeroPoints) {
  check(Codes::alternating, DType::bf16, true);
}

}  // namespace
}  // namespace qat
