// quantize, dequantize, fake_quant: the grid of numerics. fake_quant is dequantize(quantize(x)) in
// one read with the straight-through gradient (Bengio et al., 2013), zero where a code saturated.
// A given scale may be learned (LSQ; Esser et al., 2020). dequantize passes a gradient to its
// scales alone, round_scale passes it unchanged.
#include <cmath>

#include "engine/core/hash.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

Shape scale_shape(const Shape& x, const QuantSpec& spec) {
  if (spec.per == Per::tensor) return {1};
  return {x.rows(), spec.groups(x.cols())};
}

namespace {

bool quantizes_rows(const Node& node) {
  return node.attribute<FakeQuantAttributes>().spec.per != Per::tensor;
}

// inputs: dy, x, scale, zero.
void bind_fake_quant_backward(BindContext& c) {
  c.run(c.kernels.fake_quant_backward,
        FakeQuantBackward{c.in(0), c.in(1), c.in(2), c.in(3), c.out(0),
                          c.attribute<FakeQuantAttributes>().spec});
}
const Op kFakeQuantBackward{.name = "fake_quant_backward",
                            .bind = bind_fake_quant_backward,
                            .in_place = true,
                            .row_wise = quantizes_rows};

struct TrainedScaleAttributes {
  QuantSpec spec;
  float gain;
};

// inputs: dy, x, scale, zero.
void bind_trained_scale_backward(BindContext& c) {
  const auto& a = c.attribute<TrainedScaleAttributes>();
  c.run(c.kernels.trained_scale_backward,
        TrainedScaleBackward{
            c.in(0), c.in(1), c.in(2), c.in(3), c.out(0), c.out(1), {}, a.spec, a.gain});
}
const Op kTrainedScaleBackward{.name = "trained_scale_backward",
                               .bind = bind_trained_scale_backward,
                               .in_place = true,
                               .row_wise = [](const Node& node) {
                                 return node.attribute<TrainedScaleAttributes>().spec.per !=
                                        Per::tensor;
                               }};

// LSQ's factor on a scale's gradient: 1 / sqrt(elements that share it * qmax).
float scale_gain(const Shape& x, const QuantSpec& spec) {
  const double elements = double(x.count()) / double(scale_shape(x, spec).count());
  return float(1.0 / std::sqrt(elements * double(spec.qmax())));
}

// Inputs of fake_quant and quantize: x, given scale, given zero, step. Their outputs put the
// computed grid at 1 and 2; a given grid is read where it was given.
Id grid(const GradContext& g, size_t i) {
  return g.in(i) != kNone ? g.in(i) : g.out(i);
}

void differentiate(GradContext& g) {
  const auto& a = g.node().attribute<FakeQuantAttributes>();
  const Id dy = g.output_grad(0);
  if (g.in(1) == kNone && !a.spec.can_clip()) return g.add(0, dy);
  Builder& b = g.builder();
  const Value v = b.value(dy);
  if (g.wants(1)) {
    const Value scale = b.value(g.in(1));
    const TrainedScaleAttributes attributes{a.spec, scale_gain(v.shape, a.spec)};
    const auto grads = b.append(kTrainedScaleBackward, {dy, g.in(0), g.in(1), g.in(2)},
                                {{v.shape, v.dtype}, {scale.shape, DType::f32}}, attributes);
    g.add(0, grads[0]);
    g.add(1, grads[1]);
    return;
  }
  g.add(0, b.append(kFakeQuantBackward, {dy, g.in(0), grid(g, 1), grid(g, 2)}, {{v.shape, v.dtype}},
                    a)[0]);
}

RoundingNoise noise(BindContext& c) {
  const auto& a = c.attribute<FakeQuantAttributes>();
  return {c.in(3), a.seed, a.first_element};
}

void bind_fake_quant(BindContext& c) {
  c.run(c.kernels.fake_quant, FakeQuant{c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), c.out(2),
                                        c.attribute<FakeQuantAttributes>().spec, noise(c)});
}

void bind_quantize(BindContext& c) {
  c.run(c.kernels.quantize, Quantize{c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), c.out(2),
                                     c.attribute<FakeQuantAttributes>().spec, noise(c)});
}

// inputs: dy, codes, zero, group_K.
void bind_scale_gradient(BindContext& c) {
  ScaleGradient args{};
  args.dy = c.in(0);
  args.codes = c.in(1);
  args.zero = c.in(2);
  args.group_K = c.in(3);
  args.dscale = c.out(0);
  args.spec = c.attribute<FakeQuantAttributes>().spec;
  c.run(c.kernels.scale_gradient, args);
}
const Op kScaleGradient{.name = "scale_gradient", .bind = bind_scale_gradient, .accumulates = true};

void differentiate_dequantize(GradContext& g) {
  if (!g.wants(1)) return;
  Builder& b = g.builder();
  const Id dy = g.output_grad(0);
  b.check(b.value(dy).dtype == DType::f32, "dequantize", "its gradient must be f32");
  g.add(1, b.append(kScaleGradient, {dy, g.in(0), g.in(2), g.in(3)},
                    {{b.value(g.in(1)).shape, DType::f32}},
                    g.node().attribute<FakeQuantAttributes>())[0]);
}

// Rounding to what files hold counts as straight-through.
void differentiate_round_scale(GradContext& g) {
  g.add(0, g.output_grad(0));
}

struct RoundTo {
  ScaleType type;
  NegativeScale negative;
};
void bind_round_scale(BindContext& c) {
  const auto& [type, negative] = c.attribute<RoundTo>();
  c.run(c.kernels.round_scale, RoundScale{c.in(0), c.out(0), type, negative});
}
const Op kRoundScale{.name = "round_scale",
                     .differentiate = differentiate_round_scale,
                     .bind = bind_round_scale,
                     .cost = Cost::cheap,
                     .row_wise = [](const Node&) { return true; }};

// inputs: codes, scale, zero, group_K.
void bind_dequantize(BindContext& c) {
  c.run(c.kernels.dequantize, Dequantize{c.in(0), c.in(1), c.in(2), c.out(0),
                                         c.attribute<FakeQuantAttributes>().spec, c.in(3)});
}

void check_spec(Builder& b, Id x, const QuantSpec& spec) {
  const int64_t cols = b.value(x).shape.cols();
  b.check(spec.per != Per::group || (spec.group > 0 && cols % spec.unit(cols) == 0), "quantize",
          "the group (or the super-block of groups) must divide the row");
}

}  // namespace

const Op kFakeQuant{.name = "fake_quant",
                    .differentiate = differentiate,
                    .bind = bind_fake_quant,
                    .cost = Cost::cheap,
                    .row_wise = quantizes_rows};
// Recomputing the codes would recompute what they came from: they are small, so they are kept.
const Op kQuantize{.name = "quantize", .bind = bind_quantize, .row_wise = quantizes_rows};
const Op kDequantize{.name = "dequantize",
                     .differentiate = differentiate_dequantize,
                     .bind = bind_dequantize,
                     .cost = Cost::cheap,
                     .row_wise = quantizes_rows};

Id round_scale(Builder& b, Id raw, ScaleType type, NegativeScale negative) {
  const Value v = b.value(raw);
  b.check(v.dtype == DType::f32, "round_scale", "needs f32");
  return b.append(kRoundScale, {raw}, {{v.shape, DType::f32}}, RoundTo{type, negative})[0];
}

Quantized quantize(Builder& b, Id x, const QuantSpec& spec, Id given_scale, Id given_zero) {
  check_spec(b, x, spec);
  const Shape shape = b.value(x).shape, scales = scale_shape(shape, spec);
  std::vector<Builder::Out> outs = {{shape, DType::i8}};
  if (given_scale == kNone) outs.push_back({scales, DType::f32});
  if (given_scale == kNone && !spec.symmetric()) outs.push_back({scales, DType::f32});
  const auto ids =
      b.append(kQuantize, {x, given_scale, given_zero, kNone}, outs, FakeQuantAttributes{spec});
  if (given_scale != kNone) return {ids[0], given_scale, given_zero};
  return {ids[0], ids[1], spec.symmetric() ? kNone : ids[2]};
}

Id dequantize(Builder& b, const Quantized& q, const QuantSpec& spec, DType dtype) {
  return b.append(kDequantize, {q.codes, q.scale, q.zero, q.group_K},
                  {{b.value(q.codes).shape, dtype}}, FakeQuantAttributes{spec})[0];
}

Id fake_quant(Builder& b, Id x, const QuantSpec& spec, DType dtype, Id given_scale, Id given_zero,
              const RandomRounding& rounding) {
  check_spec(b, x, spec);
  const Shape shape = b.value(x).shape, scales = scale_shape(shape, spec);
  std::vector<Builder::Out> outs = {{shape, dtype}};
  if (given_scale == kNone) outs.push_back({scales, DType::f32});
  if (given_scale == kNone && !spec.symmetric()) outs.push_back({scales, DType::f32});
  return b.append(kFakeQuant, {x, given_scale, given_zero, rounding.step}, outs,
                  FakeQuantAttributes{spec, rounding.seed ^ fnv1a(b.place.path)})[0];
}

}  // namespace qat
