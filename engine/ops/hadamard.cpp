// hadamard: a rotation that spreads outliers over all columns (QuaRot; Ashkboos et al., 2024).
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

// Symmetric: the transpose is the same transform.
void differentiate(GradContext& g) {
  g.add(0, hadamard(g.builder(), g.output_grad(0), g.node().attribute<int64_t>()));
}

void bind(BindContext& c) {
  c.run(c.kernels.hadamard, Hadamard{c.in(0), c.out(0), {}, c.attribute<int64_t>()});
}

const Op kHadamard{.name = "hadamard",
                   .differentiate = differentiate,
                   .bind = bind,
                   .cost = Cost::cheap,
                   .in_place = true};

}  // namespace

Id hadamard(Builder& b, Id x_TC, int64_t width) {
  const Value& x = b.value(x_TC);
  b.check(width > 0 && x.shape.cols() % width == 0, "hadamard", "the width must divide the row");
  return b.append(kHadamard, {x_TC}, {{x.shape, x.dtype}}, width)[0];
}

}  // namespace qat
