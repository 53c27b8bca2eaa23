// linear: y_TO = x_TK . w_OKᵀ + bias_O, and the two matmuls of its gradient.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

void bind_nn(BindContext& c) {
  c.run(c.kernels.matmul, Matmul{c.in(0), c.in(1), c.out(0), MatmulForm::nn, false});
}
const Op kMatmulNn{.name = "matmul_nn", .bind = bind_nn};

void bind_tn(BindContext& c) {
  c.run(c.kernels.matmul, Matmul{c.in(0), c.in(1), c.out(0), MatmulForm::tn, false});
}

void bind_nt(BindContext& c) {
  c.run(c.kernels.matmul, Matmul{c.in(0), c.in(1), c.out(0), MatmulForm::nt, false});
}
const Op kMatmulNt{.name = "matmul_nt", .bind = bind_nt, .accumulates = true};

void bind_column_sum(BindContext& c) {
  c.run(c.kernels.column_sum, ColumnSum{c.in(0), c.out(0), {}, false});
}
const Op kColumnSum{.name = "column_sum", .bind = bind_column_sum, .accumulates = true};

void differentiate(GradContext& g) {
  Builder& b = g.builder();
  const Id dy = g.output_grad(0);
  if (g.wants(0)) g.add(0, matmul_nn(b, dy, g.in(1)));  // dx_TK = dy_TO . w_OK
  if (g.wants(1)) g.add(1, matmul_tn(b, dy, g.in(0)));  // dw_OK = dy_TOᵀ . x_TK
  if (g.in(2) != kNone && g.wants(2)) g.add(2, column_sum(b, dy));
}

void bind(BindContext& c) {
  c.run(c.kernels.matmul, Matmul{c.in(0), c.in(1), c.out(0), MatmulForm::nt, false});
  if (c.in(2)) c.run(c.kernels.bias_add, BiasAdd{c.in(2), c.out(0)});
}

Id append_linear(Builder& b, Id x_TK, Id w_OK, Id bias_O, DType dtype) {
  const Value &x = b.value(x_TK), &w = b.value(w_OK);
  b.check(x.shape.cols() == w.shape.cols() && x.dtype == w.dtype, "linear",
          "x [T, K] and w [O, K] need one K and one dtype");
  return b.append(kLinear, {x_TK, w_OK, bias_O}, {{{x.shape.rows(), w.shape[0]}, dtype}})[0];
}

}  // namespace

const Op kLinear{.name = "linear", .differentiate = differentiate, .bind = bind};
const Op kMatmulTn{.name = "matmul_tn", .bind = bind_tn, .accumulates = true};

Id linear(Builder& b, Id x_TK, Id w_OK, Id bias_O) {
  return append_linear(b, x_TK, w_OK, bias_O, b.value(x_TK).dtype);
}

Id linear_f32(Builder& b, Id x_TK, Id w_OK) {
  return append_linear(b, x_TK, w_OK, kNone, DType::f32);
}

Id matmul_nn(Builder& b, Id a_MK, Id b_KN) {
  const Value &x = b.value(a_MK), &w = b.value(b_KN);
  b.check(x.shape[1] == w.shape[0] && x.dtype == w.dtype, "matmul_nn",
          "inner sizes or dtypes differ");
  return b.append(kMatmulNn, {a_MK, b_KN}, {{{x.shape[0], w.shape[1]}, x.dtype}})[0];
}

Id matmul_tn(Builder& b, Id a_KM, Id b_KN) {
  const Value &x = b.value(a_KM), &w = b.value(b_KN);
  b.check(x.shape[0] == w.shape[0] && x.dtype == w.dtype, "matmul_tn",
          "inner sizes or dtypes differ");
  return b.append(kMatmulTn, {a_KM, b_KN}, {{{x.shape[1], w.shape[1]}, DType::f32}})[0];
}

Id matmul_nt(Builder& b, Id a_MK, Id b_NK) {
  const Value &x = b.value(a_MK), &w = b.value(b_NK);
  b.check(x.shape[1] == w.shape[1] && x.dtype == DType::f32 && w.dtype == DType::f32, "matmul_nt",
          "needs f32 and one inner size");
  return b.append(kMatmulNt, {a_MK, b_NK}, {{{x.shape[0], w.shape[0]}, DType::f32}})[0];
}

Id column_sum(Builder& b, Id x_TC) {
  return b.append(kColumnSum, {x_TC}, {{{b.value(x_TC).shape.cols()}, DType::f32}})[0];
}

}  // namespace qat
