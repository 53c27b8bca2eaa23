// swiglu: y = silu(gate) * up (Shazeer, 2020).
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

void bind_backward(BindContext& c) {
  c.run(c.kernels.swiglu_backward, SwiGluBackward{c.in(0), c.in(1), c.in(2), c.out(0), c.out(1)});
}
const Op kSwiGluBackward{.name = "swiglu_backward", .bind = bind_backward};

void differentiate(GradContext& g) {
  Builder& b = g.builder();
  const Value gate = b.value(g.in(0));
  const auto grads = b.append(kSwiGluBackward, {g.output_grad(0), g.in(0), g.in(1)},
                              {{gate.shape, gate.dtype}, {gate.shape, gate.dtype}});
  g.add(0, grads[0]);
  g.add(1, grads[1]);
}

void bind(BindContext& c) {
  c.run(c.kernels.swiglu, SwiGlu{c.in(0), c.in(1), c.out(0)});
}

const Op kSwiGlu{
    .name = "swiglu", .differentiate = differentiate, .bind = bind, .cost = Cost::cheap};

}  // namespace

Id swiglu(Builder& b, Id gate_TF, Id up_TF) {
  const Value gate = b.value(gate_TF);
  b.check(gate.shape == b.value(up_TF).shape, "swiglu", "gate and up differ in shape");
  return b.append(kSwiGlu, {gate_TF, up_TF}, {{gate.shape, gate.dtype}})[0];
}

}  // namespace qat
