// linear_packed: y_TO = x_TK . w_OKᵀ + bias_O over a frozen matrix in few bits; unpack: its values.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

struct Attributes {
  PackedSpec spec;
  Shape shape;
};

// The parts stand at inputs first, first + 1, ...
PackedView packed_at(BindContext& c, size_t first) {
  const auto& a = c.attribute<Attributes>();
  return {c.in(first), c.in(first + 1), c.in(first + 2), c.in(first + 3), a.shape, a.spec};
}

// inputs: dy, the parts.
void bind_backward(BindContext& c) {
  c.run(c.kernels.matmul_packed,
        MatmulPacked{c.in(0), packed_at(c, 1), c.out(0), {}, MatmulForm::nn});
}
const Op kLinearPackedBackward{.name = "linear_packed_backward", .bind = bind_backward};

// inputs: x, the parts, bias. The matrix and the bias are frozen.
void differentiate(GradContext& g) {
  Builder& b = g.builder();
  if (!g.wants(0)) return;
  const Value x = b.value(g.in(0));
  g.add(0, b.append(kLinearPackedBackward, {g.output_grad(0), g.in(1), g.in(2), g.in(3), g.in(4)},
                    {{x.shape, x.dtype}}, g.node().attribute<Attributes>())[0]);
}

void bind(BindContext& c) {
  c.run(c.kernels.matmul_packed,
        MatmulPacked{c.in(0), packed_at(c, 1), c.out(0), {}, MatmulForm::nt});
  if (c.in(5)) c.run(c.kernels.bias_add, BiasAdd{c.in(5), c.out(0)});
}

const Op kLinearPacked{.name = "linear_packed", .differentiate = differentiate, .bind = bind};

void bind_unpack(BindContext& c) {
  c.run(c.kernels.unpack, Unpack{packed_at(c, 0), c.out(0)});
}
const Op kUnpack{.name = "unpack", .bind = bind_unpack};

}  // namespace

Id linear_packed(Builder& b, Id x_TK, const PackedWeight& w, Id bias_O) {
  const Value x = b.value(x_TK);
  b.check(x.shape.cols() == w.shape.cols(), "linear_packed", "x [T, K] and w [O, K] need one K");
  return b.append(kLinearPacked,
                  {x_TK, w.codes, w.absmax, w.nested_absmax, w.nested_offset, bias_O},
                  {{{x.shape.rows(), w.shape[0]}, x.dtype}}, Attributes{w.spec, w.shape})[0];
}

Id unpack(Builder& b, const PackedWeight& w, DType dtype) {
  return b.append(kUnpack, {w.codes, w.absmax, w.nested_absmax, w.nested_offset},
                  {{w.shape, dtype}}, Attributes{w.spec, w.shape})[0];
}

}  // namespace qat
