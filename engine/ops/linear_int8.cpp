// linear_int8: y_TO = scale_T * scale_O * sum_K a_TK * w_OK on codes, or the sum of that over
// groups of K. Made by the fuse pass after gradients exist, so it has no gradient rule of its own.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

// inputs: a codes, a scale, w codes, w scale, bias.
void bind(BindContext& c) {
  if (c.in(3).count() > c.in(2).rows())
    c.run(c.kernels.matmul_int8_groups,
          MatmulInt8Groups{c.in(0), c.in(1), c.in(2), c.in(3), c.out(0)});
  else
    c.run(c.kernels.matmul_int8, MatmulInt8{.a_TK = c.in(0),
                                            .scale_T = c.in(1),
                                            .zero_T = {},
                                            .b_OK = c.in(2),
                                            .scale_O = c.in(3),
                                            .sums_O = {},
                                            .y_TO = c.out(0),
                                            .scratch = {}});
  if (c.in(4)) c.run(c.kernels.bias_add, BiasAdd{c.in(4), c.out(0)});
}

}  // namespace

const Op kLinearInt8{.name = "linear_int8", .bind = bind};

Id linear_int8(Builder& b, const Quantized& a, const Quantized& w, DType dtype, Id bias_O) {
  b.check(a.zero == kNone && w.zero == kNone, "linear_int8", "needs symmetric codes");
  const Value &va = b.value(a.codes), &vw = b.value(w.codes);
  b.check(va.shape.cols() == vw.shape.cols(), "linear_int8", "a [T, K] and w [O, K] need one K");
  return b.append(kLinearInt8, {a.codes, a.scale, w.codes, w.scale, bias_O},
                  {{{va.shape.rows(), vw.shape[0]}, dtype}})[0];
}

}  // namespace qat
