// rope: rotary position embedding (Su et al., 2021) in the half-split form.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

struct Attributes {
  int head_dim;
  float sign;
};

Id append_rope(Builder& b, Id x, Id positions_T, Id cos_sin, const Attributes& attributes);

// A rotation's transpose is the rotation back.
void differentiate(GradContext& g) {
  const auto& a = g.node().attribute<Attributes>();
  g.add(0, append_rope(g.builder(), g.output_grad(0), g.in(1), g.in(2), {a.head_dim, -a.sign}));
}

void bind(BindContext& c) {
  const auto& a = c.attribute<Attributes>();
  c.run(c.kernels.rope, Rope{c.in(0), c.in(1), c.in(2), c.out(0), a.head_dim, a.sign});
}

const Op kRope{.name = "rope", .differentiate = differentiate, .bind = bind, .in_place = true};

Id append_rope(Builder& b, Id x, Id positions_T, Id cos_sin, const Attributes& attributes) {
  const Value& v = b.value(x);
  b.check(
      v.shape.cols() % attributes.head_dim == 0 && b.value(cos_sin).shape[1] == attributes.head_dim,
      "rope", "head_dim must divide the row and match the table");
  return b.append(kRope, {x, positions_T, cos_sin}, {{v.shape, v.dtype}}, attributes)[0];
}

}  // namespace

Id rope(Builder& b, Id x, Id positions_T, Id cos_sin, int head_dim) {
  return append_rope(b, x, positions_T, cos_sin, {head_dim, 1.0f});
}

}  // namespace qat
