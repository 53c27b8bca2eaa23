// adapter_merge: w_OK + b_OR . a_RK (Hu et al., 2021); adapter_norm: the row lengths of that sum,
// as DoRA divides by them (Liu et al., 2024), without the sum staying anywhere.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

// inputs: w (frozen), a, b.
void differentiate(GradContext& g) {
  Builder& b = g.builder();
  const Id dy = g.output_grad(0);
  if (dy == kNone) return;
  if (g.wants(1)) g.add(1, matmul_tn(b, g.in(2), dy));  // da_RK = b_ORᵀ . dy_OK
  if (g.wants(2)) g.add(2, matmul_nt(b, dy, g.in(1)));  // db_OR = dy_OK . a_RKᵀ
}

void bind(BindContext& c) {
  c.run(c.kernels.adapter_merge, AdapterMerge{c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), {}});
}
const Op kAdapterMerge{.name = "adapter_merge", .differentiate = differentiate, .bind = bind};

void bind_norm(BindContext& c) {
  c.run(c.kernels.adapter_merge, AdapterMerge{c.in(0), c.in(1), c.in(2), {}, c.out(0), {}});
}
const Op kAdapterNorm{.name = "adapter_norm", .bind = bind_norm};

void check_factors(Builder& b, Id w_OK, Id a_RK, Id b_OR) {
  const Value &w = b.value(w_OK), &down = b.value(a_RK), &up = b.value(b_OR);
  b.check(down.shape[1] == w.shape[1] && up.shape[0] == w.shape[0] &&
              up.shape[1] == down.shape[0] && down.dtype == DType::f32 && up.dtype == DType::f32,
          "adapter_merge", "needs w [O, K], f32 a [R, K] and f32 b [O, R]");
}

}  // namespace

MergedWeight adapter_merge(Builder& b, Id w_OK, Id a_RK, Id b_OR) {
  check_factors(b, w_OK, a_RK, b_OR);
  const Shape shape = b.value(w_OK).shape;
  const auto out =
      b.append(kAdapterMerge, {w_OK, a_RK, b_OR}, {{shape, DType::f32}, {{shape[0]}, DType::f32}});
  return {out[0], out[1]};
}

Id adapter_norm(Builder& b, Id w_OK, Id a_RK, Id b_OR) {
  check_factors(b, w_OK, a_RK, b_OR);
  return b.append(kAdapterNorm, {w_OK, a_RK, b_OR}, {{{b.value(w_OK).shape[0]}, DType::f32}})[0];
}

}  // namespace qat
