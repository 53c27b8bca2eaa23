// quantize, dequantize, fake_quant: the grid of numerics. fake_quant is dequantize(quantize(x)) in
// one read with the straight-through gradient (Bengio et al., 2013), zero where a code saturated.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

Shape scale_shape(const Shape& x, const QuantSpec& spec) {
  if (spec.per == Per::tensor) return {1};
  return {x.rows(), spec.groups(x.cols())};
}

namespace {

// inputs: dy, x, scale, zero.
void bind_fake_quant_backward(BindContext& c) {
  c.run(c.kernels.fake_quant_backward,
        FakeQuantBackward{c.in(0), c.in(1), c.in(2), c.in(3), c.out(0),
                          c.attribute<FakeQuantAttributes>().spec});
}
const Op kFakeQuantBackward{
    .name = "fake_quant_backward", .bind = bind_fake_quant_backward, .in_place = true};

// Inputs of fake_quant and quantize: x, given scale, given zero. Their outputs put the computed
// grid at 1 and 2; a given grid is read where it was given.
Id grid(const GradContext& g, size_t i) {
  return g.in(i) != kNone ? g.in(i) : g.out(i);
}

void differentiate(GradContext& g) {
  const auto& a = g.node().attribute<FakeQuantAttributes>();
  const Id dy = g.output_grad(0);
  if (g.in(1) == kNone && !a.spec.can_clip()) return g.add(0, dy);
  Builder& b = g.builder();
  const Value v = b.value(dy);
  g.add(0, b.append(kFakeQuantBackward, {dy, g.in(0), grid(g, 1), grid(g, 2)}, {{v.shape, v.dtype}},
                    a)[0]);
}

void bind_fake_quant(BindContext& c) {
  c.run(c.kernels.fake_quant, FakeQuant{c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), c.out(2),
                                        c.attribute<FakeQuantAttributes>().spec});
}

void bind_quantize(BindContext& c) {
  c.run(c.kernels.quantize, Quantize{c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), c.out(2),
                                     c.attribute<FakeQuantAttributes>().spec});
}

// inputs: codes, scale, zero.
void bind_dequantize(BindContext& c) {
  c.run(c.kernels.dequantize,
        Dequantize{c.in(0), c.in(1), c.in(2), c.out(0), c.attribute<FakeQuantAttributes>().spec});
}

void check_spec(Builder& b, Id x, const QuantSpec& spec) {
  b.check(spec.per != Per::group || (spec.group > 0 && b.value(x).shape.cols() % spec.group == 0),
          "quantize", "the group must divide the row");
}

}  // namespace

const Op kFakeQuant{.name = "fake_quant",
                    .differentiate = differentiate,
                    .bind = bind_fake_quant,
                    .cost = Cost::cheap};
// Recomputing the codes would recompute what they came from: they are small, so they are kept.
const Op kQuantize{.name = "quantize", .bind = bind_quantize};
const Op kDequantize{.name = "dequantize", .bind = bind_dequantize, .cost = Cost::cheap};

Quantized quantize(Builder& b, Id x, const QuantSpec& spec, Id given_scale, Id given_zero) {
  check_spec(b, x, spec);
  const Shape shape = b.value(x).shape, scales = scale_shape(shape, spec);
  std::vector<Builder::Out> outs = {{shape, DType::i8}};
  if (given_scale == kNone) outs.push_back({scales, DType::f32});
  if (given_scale == kNone && !spec.symmetric()) outs.push_back({scales, DType::f32});
  const auto ids =
      b.append(kQuantize, {x, given_scale, given_zero}, outs, FakeQuantAttributes{spec});
  if (given_scale != kNone) return {ids[0], given_scale, given_zero};
  return {ids[0], ids[1], spec.symmetric() ? kNone : ids[2]};
}

Id dequantize(Builder& b, const Quantized& q, const QuantSpec& spec, DType dtype) {
  return b.append(kDequantize, {q.codes, q.scale, q.zero}, {{b.value(q.codes).shape, dtype}},
                  FakeQuantAttributes{spec})[0];
}

Id fake_quant(Builder& b, Id x, const QuantSpec& spec, DType dtype, Id given_scale, Id given_zero) {
  check_spec(b, x, spec);
  const Shape shape = b.value(x).shape, scales = scale_shape(shape, spec);
  std::vector<Builder::Out> outs = {{shape, dtype}};
  if (given_scale == kNone) outs.push_back({scales, DType::f32});
  if (given_scale == kNone && !spec.symmetric()) outs.push_back({scales, DType::f32});
  return b.append(kFakeQuant, {x, given_scale, given_zero}, outs, FakeQuantAttributes{spec})[0];
}

}  // namespace qat
