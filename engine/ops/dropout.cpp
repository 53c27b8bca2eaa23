// dropout (Srivastava et al., 2014): the mask is a function of counters and is never stored; the
// backward pass and recomputation make it again.
#include "engine/core/hash.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

struct Attributes {
  float rate;
  uint64_t seed;
};

Id append_dropout(Builder& b, Id x_TC, Id position, const Attributes& attributes);

void differentiate(GradContext& g) {
  g.add(0,
        append_dropout(g.builder(), g.output_grad(0), g.in(1), g.node().attribute<Attributes>()));
}

void bind(BindContext& c) {
  const auto& a = c.attribute<Attributes>();
  c.run(c.kernels.dropout, Dropout{c.in(0), c.in(1), c.out(0), a.rate, a.seed});
}

const Op kDropout{
    .name = "dropout", .differentiate = differentiate, .bind = bind, .cost = Cost::cheap};

Id append_dropout(Builder& b, Id x_TC, Id position, const Attributes& attributes) {
  const Value& x = b.value(x_TC);
  return b.append(kDropout, {x_TC, position}, {{x.shape, x.dtype}}, attributes)[0];
}

}  // namespace

Id dropout(Builder& b, Id x_TC, Id position, float rate, uint64_t seed) {
  b.check(b.value(position).dtype == DType::i64 && b.value(position).shape.count() == 2, "dropout",
          "position must be i64 [2]");
  return append_dropout(b, x_TC, position, {rate, seed ^ fnv1a(b.place.path)});
}

}  // namespace qat
