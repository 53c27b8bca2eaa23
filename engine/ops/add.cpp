// add: y = a + b.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

Id add(Builder& b, Id a, Id other) {
  const Value& va = b.value(a);
  b.check(va.shape == b.value(other).shape && va.dtype == b.value(other).dtype, "add",
          "both sides need one shape and dtype");
  return b.append(kAdd, {a, other}, {{va.shape, va.dtype}})[0];
}

namespace {

void differentiate(GradContext& g) {
  const Id dy = g.output_grad(0);
  for (size_t i = 0; i < 2; ++i)
    if (g.wants(i)) g.add(i, dy);
}

void bind(BindContext& c) {
  c.run(c.kernels.add, Add{c.in(0), c.in(1), c.out(0)});
}

}  // namespace

const Op kAdd{.name = "add",
              .differentiate = differentiate,
              .bind = bind,
              .in_place = true,
              .row_wise = [](const Node&) { return true; }};

}  // namespace qat
