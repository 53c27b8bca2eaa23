// Attention over a cache: the same results as attention over the whole sequence, however it is cut.
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

struct Case {
  int64_t tokens;
  int heads, kv_heads, head_dim;
  std::vector<int64_t> pieces;  ///< sum to tokens
};

/// Rows start .. start + count of a tensor.
ConstView rows_of(Tensor& t, int64_t start, int64_t count) {
  const View all = t.view();
  const size_t bytes = size_t(start * all.cols()) * size_of(all.dtype);
  return {all.data + bytes, Shape{count, all.cols()}, all.dtype};
}

std::vector<double> reference(const Case& c, const Tensor& tq, const Tensor& tk, const Tensor& tv,
                              double scale) {
  const auto q = tq.values(), k = tk.values(), v = tv.values();
  const int64_t dim = c.head_dim, group = c.heads / c.kv_heads;
  std::vector<double> y(q.size());
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t h = 0; h < c.heads; ++h) {
      const size_t row = size_t((t * c.heads + h) * dim);
      const auto key = [&](int64_t j) { return size_t((j * c.kv_heads + h / group) * dim); };
      std::vector<double> p;
      double top = -INFINITY, total = 0;
      for (int64_t j = 0; j <= t; ++j) {
        double s = 0;
        for (size_t d = 0; d < size_t(dim); ++d) s += q[row + d] * k[key(j) + d];
        p.push_back(s * scale);
        top = std::max(top, s * scale);
      }
      for (double& s : p) total += s = std::exp(s - top);
      for (int64_t j = 0; j <= t; ++j)
        for (size_t d = 0; d < size_t(dim); ++d) y[row + d] += p[size_t(j)] / total * v[key(j) + d];
    }
  return y;
}

void check(const Case& c, DType type, DType cache_type, double tolerance) {
  SCOPED_TRACE(testing::Message() << c.tokens << " tokens, dim " << c.head_dim);
  const Shape wide{c.tokens, int64_t(c.heads) * c.head_dim};
  const Shape narrow{c.tokens, int64_t(c.kv_heads) * c.head_dim};
  Tensor q(wide, type), k(narrow, type), v(narrow, type);
  q.fill_normal(1, 1.5);
  k.fill_normal(2, 1.5);
  v.fill_normal(3, 1.0);
  const float scale = 1.0f / std::sqrt(float(c.head_dim));
  const auto expected = reference(c, q, k, v, scale);
  std::vector<Tensor> results;
  for (int threads : {1, 2, 3}) {
    Tensor y(wide, type), k_cache({c.tokens, narrow[1]}, cache_type), v_cache(k_cache);
    int64_t start = 0;
    for (int64_t count : c.pieces) {
      Tensor length({1}, DType::i32);
      length.set(0, double(start));
      AttentionCached args{};
      args.q_THD = rows_of(q, start, count);
      args.k_TGD = rows_of(k, start, count);
      args.v_TGD = rows_of(v, start, count);
      args.length = length.view();
      args.k_cache = k_cache.view();
      args.v_cache = v_cache.view();
      const size_t offset = size_t(start * wide[1]) * size_of(type);
      args.y_THD = View{y.view().data + offset, Shape{count, wide[1]}, type};
      args.heads = c.heads;
      args.kv_heads = c.kv_heads;
      args.head_dim = c.head_dim;
      args.scale = scale;
      Tensor scratch = test::scratch_for(cpu_kernels().attention_cached, args);
      args.scratch = scratch.view();
      Stream stream(threads);
      cpu_kernels().attention_cached.run(args, stream);
      start += count;
    }
    EXPECT_TRUE(y.guard_intact() && k_cache.guard_intact() && v_cache.guard_intact());
    results.push_back(y);
  }
  EXPECT_LT(test::relative_error(results[0], expected), tolerance);
  EXPECT_TRUE(results[0].same_bits(results[1]) && results[0].same_bits(results[2]));
}

// Values of x on a grid with a token a row, by the kernel that training uses.
Tensor on_grid(Tensor& x, const QuantSpec& grid) {
  const Shape shape = x.view().shape, scales{shape.rows(), grid.groups(shape.cols())};
  Tensor y(shape, DType::f32), scale(scales, DType::f32), zero(scales, DType::f32);
  FakeQuant args{};
  args.x = x.view();
  args.y = y.view();
  args.scale = scale.view();
  if (!grid.symmetric()) args.zero = zero.view();
  args.spec = grid;
  Stream stream(1);
  cpu_kernels().fake_quant.run(args, stream);
  return y;
}

void check_codes(const Case& c, const QuantSpec& grid, DType type, double tolerance) {
  SCOPED_TRACE(testing::Message() << c.tokens << " tokens, dim " << c.head_dim << ", " << grid.bits
                                  << " bits per " << int(grid.per));
  const Shape wide{c.tokens, int64_t(c.heads) * c.head_dim};
  const Shape narrow{c.tokens, int64_t(c.kv_heads) * c.head_dim};
  const Shape scales{c.tokens, grid.groups(narrow[1])};
  Tensor q(wide, type), k(narrow, type), v(narrow, type);
  q.fill_normal(1, 1.5);
  k.fill_normal(2, 1.5);
  v.fill_normal(3, 1.0);
  const float scale = 1.0f / std::sqrt(float(c.head_dim));
  const auto expected = reference(c, q, on_grid(k, grid), on_grid(v, grid), scale);
  std::vector<Tensor> results, key_caches;
  for (int threads : {1, 3}) {
    Tensor y(wide, type);
    Tensor k_cache({c.tokens, kv_code_bytes(grid.bits, narrow[1])}, kv_code_dtype(grid.bits));
    Tensor v_cache = k_cache;
    Tensor k_scale(scales, kv_scale_dtype(grid.scale_type)), v_scale = k_scale;
    Tensor k_zero(scales, DType::i8), v_zero = k_zero;
    int64_t start = 0;
    for (int64_t count : c.pieces) {
      Tensor length({1}, DType::i32);
      length.set(0, double(start));
      AttentionCached args{};
      args.q_THD = rows_of(q, start, count);
      args.k_TGD = rows_of(k, start, count);
      args.v_TGD = rows_of(v, start, count);
      args.length = length.view();
      args.k_cache = k_cache.view();
      args.v_cache = v_cache.view();
      args.k_scale = k_scale.view();
      args.v_scale = v_scale.view();
      if (!grid.symmetric()) {
        args.k_zero = k_zero.view();
        args.v_zero = v_zero.view();
      }
      args.grid = grid;
      const size_t offset = size_t(start * wide[1]) * size_of(type);
      args.y_THD = View{y.view().data + offset, Shape{count, wide[1]}, type};
      args.heads = c.heads;
      args.kv_heads = c.kv_heads;
      args.head_dim = c.head_dim;
      args.scale = scale;
      Tensor scratch = test::scratch_for(cpu_kernels().attention_cached, args);
      args.scratch = scratch.view();
      Stream stream(threads);
      cpu_kernels().attention_cached.run(args, stream);
      EXPECT_TRUE(scratch.guard_intact());
      start += count;
    }
    for (Tensor* cache : {&k_cache, &v_cache, &k_scale, &v_scale, &k_zero, &v_zero, &y})
      EXPECT_TRUE(cache->guard_intact());
    results.push_back(y);
    key_caches.push_back(k_cache);
  }
  EXPECT_LT(test::relative_error(results[0], expected), tolerance);
  EXPECT_TRUE(results[0].same_bits(results[1]));
  EXPECT_TRUE(key_caches[0].same_bits(key_caches[1]));
}

QuantSpec grid_of(int bits, Per per, int group, Range range, ScaleRule rule, ScaleType type) {
  return {bits, per, group, range, rule, type, Division::stored};
}

const Case kCases[] = {{1, 1, 1, 8, {1}},
                       {9, 4, 2, 34, {4, 1, 1, 3}},
                       {140, 3, 1, 64, {100, 1, 38, 1}},
                       {300, 2, 2, 96, {1, 299}}};

TEST(AttentionCachedTest, F32) {
  for (const Case& c : kCases) check(c, DType::f32, DType::f32, 1e-6);
}
TEST(AttentionCachedTest, Bf16) {
  for (const Case& c : kCases) check(c, DType::bf16, DType::bf16, 3e-3);
}
TEST(AttentionCachedTest, F32WithBf16Cache) {
  for (const Case& c : kCases) check(c, DType::f32, DType::bf16, 1e-2);
}
TEST(AttentionCachedTest, Bf16WithF32Cache) {
  for (const Case& c : kCases) check(c, DType::bf16, DType::f32, 3e-3);
}

// Blocks of 2 divide every case's keys and cross no head; rows cross all of them.
TEST(AttentionCachedTest, Codes) {
  for (const Case& c : kCases)
    for (int bits : {4, 8})
      for (Per per : {Per::row, Per::group})
        for (Range range : {Range::strict, Range::full, Range::asymmetric})
          for (ScaleType type : {ScaleType::f32, ScaleType::bf16, ScaleType::f16}) {
            const ScaleRule rule =
                range == Range::asymmetric ? ScaleRule::min_max : ScaleRule::amax;
            check_codes(c, grid_of(bits, per, 2, range, rule, type), DType::f32, 1e-6);
            check_codes(c, grid_of(bits, per, 2, range, rule, type), DType::bf16, 3e-3);
          }
}

// As llama.cpp caches: the codes are divided by the scale before it becomes f16.
TEST(AttentionCachedTest, BlocksOfGgml) {
  QuantSpec q8_0{
      .per = Per::group, .group = 32, .scale_type = ScaleType::f16, .division = Division::exact};
  QuantSpec q4_0 = q8_0;
  q4_0.bits = 4;
  q4_0.range = Range::full;
  q4_0.rule = ScaleRule::signed_max;
  for (const QuantSpec& grid : {q8_0, q4_0}) {
    check_codes({140, 3, 1, 64, {100, 1, 38, 1}}, grid, DType::f32, 1e-6);
    check_codes({300, 2, 2, 96, {1, 299}}, grid, DType::f32, 1e-6);
    check_codes({40, 4, 4, 16, {40}}, grid, DType::f32, 1e-6);  // a block crosses two heads
  }
}

}  // namespace
}  // namespace qat
