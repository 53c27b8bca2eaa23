// head_loss: head matmul, cross-entropy and KL, chunk by chunk. It is the end of every training
// graph, so its gradients (of the mean loss) are computed in the same chunks: differentiating adds
// outputs.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

// inputs: x, w, targets, inv_tokens, teacher_x, teacher_w; outputs: sums, nll [, dx, dw].
void differentiate(GradContext& g) {
  const Value x = g.builder().value(g.in(0)), w = g.builder().value(g.in(1));
  g.add(0, g.add_output(x.shape, x.dtype));
  if (g.wants(1)) g.add(1, g.add_output(w.shape, DType::f32));
}

void bind(BindContext& c) {
  const auto& a = c.attribute<LossWeights>();
  c.run(c.kernels.head_loss, HeadLoss{.x_TC = c.in(0),
                                      .w_VC = c.in(1),
                                      .targets_T = c.in(2),
                                      .teacher_x_TC = c.in(4),
                                      .teacher_w_VC = c.in(5),
                                      .inv_tokens = c.in(3),
                                      .sums = c.out(0),
                                      .nll_T = c.out(1),
                                      .dx_TC = c.out(2),
                                      .dw_VC = c.out(3),
                                      .scratch = {},
                                      .ce_weight = a.cross_entropy,
                                      .kl_weight = a.kl,
                                      .temperature = a.temperature,
                                      .accumulate_dw = false});
}

}  // namespace

const Op kHeadLoss{
    .name = "head_loss", .differentiate = differentiate, .bind = bind, .accumulates = true};

LossOutputs head_loss(Builder& b, const LossInputs& in, const LossWeights& weights) {
  const Value &x = b.value(in.x_TC), &w = b.value(in.w_VC);
  b.check(x.shape.cols() == w.shape.cols() && x.dtype == w.dtype, "head_loss",
          "x [T, C] and w [V, C] need one C and one dtype");
  b.check((in.teacher_x_TC == kNone) == (in.teacher_w_VC == kNone), "head_loss",
          "a teacher needs hidden states and a head");
  const auto out = b.append(
      kHeadLoss, {in.x_TC, in.w_VC, in.targets_T, in.inv_tokens, in.teacher_x_TC, in.teacher_w_VC},
      {{{4}, DType::f32}, {{x.shape[0]}, DType::f32}}, weights);
  return {out[0], out[1]};
}

}  // namespace qat
