// Attention forward and backward against double-precision loops: shapes, documents, grouped heads.
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t sequences, sequence;
  int heads, kv_heads, head_dim;
  bool documents;
};

constexpr Case kCases[] = {
    {1, 1, 1, 1, 8, false},    {2, 7, 2, 1, 8, true},    {1, 64, 2, 2, 32, false},
    {2, 65, 3, 1, 48, true},   {1, 130, 4, 2, 64, true}, {1, 300, 2, 1, 96, false},
    {1, 257, 3, 3, 128, true}, {2, 96, 6, 2, 2, true},   {1, 200, 2, 1, 34, true}};

/// Starts of documents: a few lengths in turn, so that some lie within and some across blocks.
std::vector<int32_t> document_starts(const Case& c) {
  std::vector<int32_t> first;
  for (int64_t b = 0; b < c.sequences; ++b) {
    int32_t start = 0;
    for (int64_t t = 0; t < c.sequence; ++t) {
      if (c.documents && (t == 3 || t == 70 || t == 71 || t == 190)) start = int32_t(t);
      first.push_back(start);
    }
  }
  return first;
}

/// Everything one case needs, with the reference results in double.
struct Fixture {
  Case c;
  Tensor q, k, v, dy, first;
  std::vector<double> y, lse, dq, dk, dv;
  float scale;

  Fixture(const Case& shape, DType type)
      : c(shape),
        q({rows(), int64_t(shape.heads) * shape.head_dim}, type),
        k({rows(), int64_t(shape.kv_heads) * shape.head_dim}, type),
        v({rows(), int64_t(shape.kv_heads) * shape.head_dim}, type),
        dy({rows(), int64_t(shape.heads) * shape.head_dim}, type),
        first({rows()}, DType::i32),
        scale(1.0f / std::sqrt(float(shape.head_dim))) {
    q.fill_normal(1, 1.5);
    k.fill_normal(2, 1.5);
    v.fill_normal(3, 1.0);
    dy.fill_normal(4, 1.0);
    const auto starts = document_starts(c);
    for (int64_t t = 0; t < rows(); ++t) first.set(t, starts[size_t(t)]);
    compute();
  }

  int64_t rows() const { return c.sequences * c.sequence; }

  void compute() {
    const int64_t heads = c.heads, kv_heads = c.kv_heads, dim = c.head_dim;
    const auto vq = q.values(), vk = k.values(), vv = v.values(), vdy = dy.values();
    y.assign(size_t(q.count()), 0.0);
    dq = y;
    dk.assign(size_t(k.count()), 0.0);
    dv = dk;
    lse.assign(size_t(rows() * heads), 0.0);
    for (int64_t row = 0; row < rows(); ++row)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t base = row / c.sequence * c.sequence, t = row % c.sequence;
        const int64_t low = int64_t(first[row]), g = h / (heads / kv_heads);
        const auto at_q = [&](int64_t d) { return (row * heads + h) * dim + d; };
        const auto at_k = [&](int64_t j, int64_t d) {
          return ((base + j) * kv_heads + g) * dim + d;
        };
        std::vector<double> p;
        double total = 0;
        for (int64_t j = low; j <= t; ++j) {
          double s = 0;
          for (int64_t d = 0; d < dim; ++d) s += vq[size_t(at_q(d))] * vk[size_t(at_k(j, d))];
          p.push_back(std::exp(s * scale));
          total += p.back();
        }
        lse[size_t(row * heads + h)] = std::log(total);
        double delta = 0;
        for (int64_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int64_t j = low; j <= t; ++j)
            sum += p[size_t(j - low)] / total * vv[size_t(at_k(j, d))];
          y[size_t(at_q(d))] = sum;
          delta += sum * vdy[size_t(at_q(d))];
        }
        for (int64_t j = low; j <= t; ++j) {
          const double weight = p[size_t(j - low)] / total;
          double dp = 0;
          for (int64_t d = 0; d < dim; ++d) dp += vdy[size_t(at_q(d))] * vv[size_t(at_k(j, d))];
          const double ds = weight * (dp - delta) * scale;
          for (int64_t d = 0; d < dim; ++d) {
            dv[size_t(at_k(j, d))] += weight * vdy[size_t(at_q(d))];
            dq[size_t(at_q(d))] += ds * vk[size_t(at_k(j, d))];
            dk[size_t(at_k(j, d))] += ds * vq[size_t(at_q(d))];
          }
        }
      }
  }
};

struct Results {
  Tensor y, lse, dq, dk, dv;
};

Results run(Fixture& f, int threads, bool with_first) {
  const DType type = f.q.dtype();
  const Shape wide{f.rows(), int64_t(f.c.heads) * f.c.head_dim};
  const Shape narrow{f.rows(), int64_t(f.c.kv_heads) * f.c.head_dim};
  Results r{{wide, type},
            {{f.rows(), f.c.heads}, DType::f32},
            {wide, type},
            {narrow, type},
            {narrow, type}};
  Stream stream(threads);
  Attention forward{};
  forward.q_THD = f.q.view();
  forward.k_TGD = f.k.view();
  forward.v_TGD = f.v.view();
  if (with_first) forward.first_T = f.first.view();
  forward.y_THD = r.y.view();
  forward.lse_TH = r.lse.view();
  forward.heads = f.c.heads;
  forward.kv_heads = f.c.kv_heads;
  forward.head_dim = f.c.head_dim;
  forward.sequence = f.c.sequence;
  forward.scale = f.scale;
  Tensor scratch = test::scratch_for(cpu_kernels().attention, forward);
  forward.scratch = scratch.view();
  cpu_kernels().attention.run(forward, stream);
  EXPECT_TRUE(scratch.guard_intact());

  AttentionBackward backward{};
  backward.q_THD = f.q.view();
  backward.k_TGD = f.k.view();
  backward.v_TGD = f.v.view();
  backward.first_T = forward.first_T;
  backward.y_THD = r.y.view();
  backward.lse_TH = r.lse.view();
  backward.dy_THD = f.dy.view();
  backward.dq_THD = r.dq.view();
  backward.dk_TGD = r.dk.view();
  backward.dv_TGD = r.dv.view();
  backward.heads = f.c.heads;
  backward.kv_heads = f.c.kv_heads;
  backward.head_dim = f.c.head_dim;
  backward.sequence = f.c.sequence;
  backward.scale = f.scale;
  Tensor scratch2 = test::scratch_for(cpu_kernels().attention_backward, backward);
  backward.scratch = scratch2.view();
  cpu_kernels().attention_backward.run(backward, stream);
  EXPECT_TRUE(scratch2.guard_intact());
  for (const Tensor* t : {&r.y, &r.lse, &r.dq, &r.dk, &r.dv}) EXPECT_TRUE(t->guard_intact());
  return r;
}

void check(DType type, double forward_tolerance, double backward_tolerance) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.sequences << " x " << c.sequence << ", heads " << c.heads
                                    << "/" << c.kv_heads << ", dim " << c.head_dim);
    Fixture f(c, type);
    const Results one = run(f, 1, c.documents);
    EXPECT_LT(test::relative_error(one.y, f.y), forward_tolerance);
    EXPECT_LT(test::relative_error(one.dq, f.dq), backward_tolerance);
    EXPECT_LT(test::relative_error(one.dk, f.dk), backward_tolerance);
    EXPECT_LT(test::relative_error(one.dv, f.dv), backward_tolerance);
    for (int64_t i = 0; i < one.lse.count(); ++i)
      ASSERT_NEAR(one.lse[i], f.lse[size_t(i)], 3e-6 * (1 + std::abs(f.lse[size_t(i)])));
    for (int threads : {2, 3}) {
      const Results other = run(f, threads, c.documents);
      EXPECT_TRUE(one.y.same_bits(other.y) && one.lse.same_bits(other.lse));
      EXPECT_TRUE(one.dq.same_bits(other.dq) && one.dk.same_bits(other.dk) &&
                  one.dv.same_bits(other.dv));
    }
  }
}

TEST(AttentionTest, F32) {
  check(DType::f32, 1e-6, 1e-6);
}
TEST(AttentionTest, Bf16) {
  check(DType::bf16, 5e-3, 1e-2);
}

/// Scores so large that a softmax without the row maximum would overflow.
TEST(AttentionTest, LargeScores) {
  Fixture f({1, 150, 2, 1, 64, true}, DType::f32);
  f.scale = 20.0f;
  f.compute();
  for (double& value : f.lse)
    value = 0;  // exp overflows in the plain reference: check y by hand below
  const Results r = run(f, 2, true);
  for (int64_t i = 0; i < r.y.count(); ++i) ASSERT_TRUE(std::isfinite(r.y[i]));
  for (int64_t i = 0; i < r.dq.count(); ++i) ASSERT_TRUE(std::isfinite(r.dq[i]));
  // The first token of a document sees itself only: its output is its value.
  for (int64_t t : {0, 3, 70, 71})
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t d = 0; d < 64; ++d)
        ASSERT_NEAR(r.y[(t * 2 + h) * 64 + d], f.v[t * 64 + d], 1e-6);
}

/// A NaN must reach the loss: the trainer stops on it.
TEST(AttentionTest, NanIsNotLost) {
  Fixture f({1, 40, 1, 1, 32, false}, DType::f32);
  f.q.set(20 * 32, NAN);
  const Results r = run(f, 1, false);
  EXPECT_TRUE(std::isnan(r.y[20 * 32]));
  EXPECT_TRUE(std::isfinite(r.y[19 * 32]));
}

}  // namespace
}  // namespace qat
