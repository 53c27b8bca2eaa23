// rms_norm: y = x * rstd * weight (Zhang and Sennrich, 2019), by row or by piece of a row.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

struct Attributes {
  float eps;
};

// inputs: dy, x, weight, rstd, residual gradient (optional); outputs: dx, dweight.
void bind_backward(BindContext& c) {
  c.run(c.kernels.rms_norm_backward, RmsNormBackward{.dy_TC = c.in(0),
                                                     .x_TC = c.in(1),
                                                     .weight_C = c.in(2),
                                                     .rstd_T = c.in(3),
                                                     .residual_TC = c.in(4),
                                                     .dx_TC = c.out(0),
                                                     .dweight_C = c.out(1),
                                                     .scratch = {},
                                                     .accumulate = false});
}

void differentiate(GradContext& g) {
  Builder& b = g.builder();
  const Value x = b.value(g.in(0));
  const auto grads =
      b.append(kRmsNormBackward, {g.output_grad(0), g.in(0), g.in(1), g.out(1), kNone},
               {{x.shape, x.dtype}, {b.value(g.in(1)).shape, DType::f32}});
  g.add(0, grads[0]);
  g.add(1, grads[1]);
}

void bind(BindContext& c) {
  c.run(c.kernels.rms_norm,
        RmsNorm{c.in(0), c.in(1), c.out(0), c.out(1), c.attribute<Attributes>().eps});
}

const Op kRmsNorm{
    .name = "rms_norm", .differentiate = differentiate, .bind = bind, .cost = Cost::cheap};

}  // namespace

const Op kRmsNormBackward{.name = "rms_norm_backward", .bind = bind_backward, .accumulates = true};

Id rms_norm(Builder& b, Id x_TC, Id weight_C, float eps) {
  const Value x = b.value(x_TC);
  const int64_t width = b.value(weight_C).shape[0];
  b.check(x.shape.cols() % width == 0, "rms_norm", "the weight's width must divide the row");
  return b.append(kRmsNorm, {x_TC, weight_C},
                  {{x.shape, x.dtype}, {{x.shape.count() / width}, DType::f32}},
                  Attributes{eps})[0];
}

}  // namespace qat
