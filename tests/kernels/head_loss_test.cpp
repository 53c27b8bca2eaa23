// The head's loss and gradients against double-precision sums, and the rules for what does not
// count.
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t tokens, vocabulary, hidden;
  bool teacher;
  float ce_weight, kl_weight, temperature;
};

constexpr Case kCases[] = {{1, 2, 2, false, 1, 0, 1},          {5, 33, 8, true, 0.3f, 0.7f, 1},
                           {37, 515, 48, true, 0.5f, 1, 2.5f}, {261, 130, 64, true, 0, 1, 1},
                           {300, 257, 32, false, 1, 0, 1},     {64, 1000, 96, true, 1, 0.5f, 0.7f}};

struct Inputs {
  Case c;
  Tensor x, w, tx, tw, targets, inv_tokens;
  explicit Inputs(const Case& shape, DType type)
      : c(shape),
        x({shape.tokens, shape.hidden}, type),
        w({shape.vocabulary, shape.hidden}, type),
        tx(x),
        tw(w),
        targets({shape.tokens}, DType::i32),
        inv_tokens({1}, DType::f32) {
    x.fill_normal(1, 1.0);
    w.fill_normal(2, 2.0 / std::sqrt(double(shape.hidden)));
    tx.fill_normal(3, 1.0);
    tw.fill_normal(4, 2.0 / std::sqrt(double(shape.hidden)));
    targets.fill_integers(5, 0, int(shape.vocabulary) - 1);
    for (int64_t t = 2; t < shape.tokens; t += 7) targets.set(t, -1);
    inv_tokens.set(0, 0.125);
  }
};

struct Outputs {
  Tensor sums, nll, dx, dw;
};

struct Wanted {
  bool gradients = true;
  bool accumulate = false;
};

Outputs run(Inputs& in, int threads, Wanted wanted = {}) {
  Outputs out{{{4}, DType::f32},
              {{in.c.tokens}, DType::f32},
              {{in.c.tokens, in.c.hidden}, in.x.dtype()},
              {{in.c.vocabulary, in.c.hidden}, DType::f32}};
  out.dw.fill(1.0);
  HeadLoss args{};
  args.x_TC = in.x.view();
  args.w_VC = in.w.view();
  args.targets_T = in.targets.view();
  if (in.c.teacher) {
    args.teacher_x_TC = in.tx.view();
    args.teacher_w_VC = in.tw.view();
  }
  args.inv_tokens = in.inv_tokens.view();
  args.sums = out.sums.view();
  args.nll_T = out.nll.view();
  if (wanted.gradients) {
    args.dx_TC = out.dx.view();
    args.dw_VC = out.dw.view();
  }
  args.ce_weight = in.c.ce_weight;
  args.kl_weight = in.c.kl_weight;
  args.temperature = in.c.temperature;
  args.accumulate_dw = wanted.accumulate;
  Tensor scratch = test::scratch_for(cpu_kernels().head_loss, args);
  args.scratch = scratch.view();
  Stream stream(threads);
  cpu_kernels().head_loss.run(args, stream);
  for (const Tensor* t : {&scratch, &out.sums, &out.nll, &out.dx, &out.dw})
    EXPECT_TRUE(t->guard_intact());
  return out;
}

struct Reference {
  std::vector<double> nll, dx, dw;
  double ce = 0, kl = 0, valid = 0, hits = 0;
};

std::vector<double> logits_of(const std::vector<double>& x, const std::vector<double>& w,
                              const Case& c, int64_t t) {
  std::vector<double> z(size_t(c.vocabulary), 0.0);
  for (int64_t v = 0; v < c.vocabulary; ++v)
    for (int64_t k = 0; k < c.hidden; ++k)
      z[size_t(v)] += x[size_t(t * c.hidden + k)] * w[size_t(v * c.hidden + k)];
  return z;
}

/// Log probabilities of logits / temperature.
std::vector<double> log_softmax(std::vector<double> z, double temperature) {
  double top = -INFINITY, total = 0;
  for (double& value : z) top = std::max(top, value /= temperature);
  for (double value : z) total += std::exp(value - top);
  for (double& value : z) value -= top + std::log(total);
  return z;
}

Reference reference(const Inputs& in, double dw_before) {
  const Case& c = in.c;
  const auto x = in.x.values(), w = in.w.values(), tx = in.tx.values(), tw = in.tw.values();
  Reference r;
  r.nll.assign(size_t(c.tokens), 0.0);
  r.dx.assign(size_t(c.tokens * c.hidden), 0.0);
  r.dw.assign(size_t(c.vocabulary * c.hidden), dw_before);
  for (int64_t t = 0; t < c.tokens; ++t) {
    const int64_t target = int64_t(in.targets[t]);
    if (target < 0) continue;
    const auto z = logits_of(x, w, c, t);
    const auto p = log_softmax(z, 1.0);
    r.nll[size_t(t)] = -p[size_t(target)];
    r.ce += r.nll[size_t(t)];
    r.valid += 1;
    r.hits += std::max_element(z.begin(), z.end()) - z.begin() == target;
    std::vector<double> dz(size_t(c.vocabulary));
    for (size_t v = 0; v < dz.size(); ++v)
      dz[v] = c.ce_weight * (std::exp(p[v]) - (int64_t(v) == target ? 1.0 : 0.0));
    if (c.teacher) {
      const double temperature = c.temperature;
      const auto ps = log_softmax(z, temperature);
      const auto pt = log_softmax(logits_of(tx, tw, c, t), temperature);
      for (size_t v = 0; v < dz.size(); ++v) {
        r.kl += temperature * temperature * std::exp(pt[v]) * (pt[v] - ps[v]);
        dz[v] += c.kl_weight * temperature * (std::exp(ps[v]) - std::exp(pt[v]));
      }
    }
    for (int64_t v = 0; v < c.vocabulary; ++v)
      for (int64_t k = 0; k < c.hidden; ++k) {
        const double g = dz[size_t(v)] * in.inv_tokens[0];
        r.dx[size_t(t * c.hidden + k)] += g * w[size_t(v * c.hidden + k)];
        r.dw[size_t(v * c.hidden + k)] += g * x[size_t(t * c.hidden + k)];
      }
  }
  return r;
}

void check(DType type, double value_tolerance, double gradient_tolerance) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.tokens << " x " << c.vocabulary << " x " << c.hidden);
    Inputs in(c, type);
    const Outputs out = run(in, 1);
    const Reference r = reference(in, 0.0);
    EXPECT_LT(test::relative_error(out.nll, r.nll), value_tolerance);
    EXPECT_NEAR(out.sums[0], r.ce, value_tolerance * r.ce);
    EXPECT_NEAR(out.sums[1], r.kl, value_tolerance * r.kl);
    EXPECT_EQ(out.sums[2], r.valid);
    EXPECT_EQ(out.sums[3], r.hits);
    EXPECT_LT(test::relative_error(out.dx, r.dx), gradient_tolerance);
    EXPECT_LT(test::relative_error(out.dw, r.dw), gradient_tolerance);
    for (int threads : {2, 3}) {
      const Outputs other = run(in, threads);
      EXPECT_TRUE(out.sums.same_bits(other.sums) && out.nll.same_bits(other.nll));
      EXPECT_TRUE(out.dx.same_bits(other.dx) && out.dw.same_bits(other.dw));
    }
    const Outputs added = run(in, 2, {.gradients = true, .accumulate = true});
    EXPECT_LT(test::relative_error(added.dw, reference(in, 1.0).dw), gradient_tolerance);
    const Outputs evaluated = run(in, 2, {.gradients = false});
    EXPECT_TRUE(evaluated.sums.same_bits(out.sums) && evaluated.nll.same_bits(out.nll));
    EXPECT_EQ(evaluated.dw[0], 1.0);  // untouched
  }
}

TEST(HeadLossTest, F32) {
  check(DType::f32, 2e-6, 2e-6);
}
TEST(HeadLossTest, Bf16) {
  check(DType::bf16, 2e-6, 5e-3);
}

TEST(HeadLossTest, EqualTeacherGivesNoGradient) {
  for (const float temperature : {1.0f, 2.0f}) {
    Inputs in({40, 300, 32, true, 0.0f, 1.0f, temperature}, DType::bf16);
    in.tx = in.x;
    in.tw = in.w;
    const Outputs out = run(in, 2);
    EXPECT_EQ(out.sums[1], 0.0);
    for (int64_t i = 0; i < out.dx.count(); ++i) ASSERT_EQ(out.dx[i], 0.0);
    for (int64_t i = 0; i < out.dw.count(); ++i) ASSERT_EQ(out.dw[i], 0.0);
  }
}

TEST(HeadLossTest, UncountedTokensHaveZeroGradientRows) {
  Inputs in({20, 100, 16, true, 1.0f, 1.0f, 1.0f}, DType::f32);
  const Outputs out = run(in, 2);
  for (int64_t t = 2; t < 20; t += 7) {
    EXPECT_EQ(out.nll[t], 0.0);
    for (int64_t k = 0; k < 16; ++k) EXPECT_EQ(out.dx[t * 16 + k], 0.0);
  }
}

TEST(HeadLossTest, NothingCounted) {
  Inputs in({300, 100, 16, false, 1.0f, 0.0f, 1.0f}, DType::f32);
  in.targets.fill(-1);
  const Outputs out = run(in, 2);
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(out.sums[i], 0.0);
  for (int64_t i = 0; i < out.dx.count(); ++i) ASSERT_EQ(out.dx[i], 0.0);
  for (int64_t i = 0; i < out.dw.count(); ++i) ASSERT_EQ(out.dw[i], 0.0);
  const Outputs kept = run(in, 2, {.gradients = true, .accumulate = true});
  for (int64_t i = 0; i < kept.dw.count(); ++i) ASSERT_EQ(kept.dw[i], 1.0);
}

/// Whole chunks that do not count are skipped; those around them must not notice.
TEST(HeadLossTest, SkippedChunkBetweenOthers) {
  Inputs in({800, 64, 16, false, 1.0f, 0.0f, 1.0f}, DType::f32);
  for (int64_t t = 0; t < 560; ++t) in.targets.set(t, -1);
  const Outputs out = run(in, 2);
  const Reference r = reference(in, 0.0);
  EXPECT_NEAR(out.sums[0], r.ce, 2e-6 * r.ce);
  EXPECT_LT(test::relative_error(out.dx, r.dx), 2e-6);
  EXPECT_LT(test::relative_error(out.dw, r.dw), 2e-6);
}

TEST(HeadLossTest, NanReachesTheSums) {
  Inputs in({8, 100, 16, false, 1.0f, 0.0f, 1.0f}, DType::f32);
  in.x.set(3 * 16, NAN);
  EXPECT_TRUE(std::isnan(run(in, 1).sums[0]));
}

}  // namespace
}  // namespace qat
