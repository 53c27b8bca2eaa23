// cast: y = x in another dtype.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

Id cast(Builder& b, Id x, DType dtype) {
  if (b.value(x).dtype == dtype) return x;
  return b.append(kCast, {x}, {{b.value(x).shape, dtype}})[0];
}

namespace {

// The gradient of a parameter is f32 whatever the compute dtype, so it passes as it is.
void differentiate(GradContext& g) {
  g.add(0, g.output_grad(0));
}

void bind(BindContext& c) {
  c.run(c.kernels.cast, Cast{c.in(0), c.out(0)});
}

}  // namespace

const Op kCast{.name = "cast",
               .differentiate = differentiate,
               .bind = bind,
               .cost = Cost::cheap,
               .row_wise = [](const Node&) { return true; }};

}  // namespace qat
