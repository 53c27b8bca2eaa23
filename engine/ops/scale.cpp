// scale: y = x * by; scale_columns, scale_rows: one factor a column or a row; divide.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

struct Factor {
  float by;
};

void differentiate_scale(GradContext& g) {
  g.add(0, scale(g.builder(), g.output_grad(0), g.node().attribute<Factor>().by));
}

void bind_scale(BindContext& c) {
  c.run(c.kernels.scale, Scale{c.in(0), c.out(0), c.attribute<Factor>().by});
}

const Op kScale{.name = "scale",
                .differentiate = differentiate_scale,
                .bind = bind_scale,
                .cost = Cost::cheap,
                .in_place = true,
                .row_wise = [](const Node&) { return true; }};

// inputs: dy, x.
void bind_column_dot(BindContext& c) {
  c.run(c.kernels.column_sum, ColumnSum{c.in(0), c.out(0), {}, false, c.in(1)});
}
const Op kColumnDot{.name = "column_dot", .bind = bind_column_dot, .accumulates = true};

void differentiate_columns(GradContext& g) {
  Builder& b = g.builder();
  const Id dy = g.output_grad(0);
  if (g.wants(0)) g.add(0, scale_columns(b, dy, g.in(1)));
  if (g.wants(1))
    g.add(1, b.append(kColumnDot, {dy, g.in(0)}, {{b.value(g.in(1)).shape, DType::f32}})[0]);
}

void bind_columns(BindContext& c) {
  c.run(c.kernels.scale_axis,
        ScaleAxis{c.in(0), c.in(1), c.in(2), c.out(0), ScaleAxis::By::column});
}

const Op kScaleColumns{.name = "scale_columns",
                       .differentiate = differentiate_columns,
                       .bind = bind_columns,
                       .cost = Cost::cheap,
                       .in_place = true};

void bind_row_dot(BindContext& c) {
  c.run(c.kernels.row_dot, RowDot{c.in(0), c.in(1), c.out(0), false});
}
const Op kRowDot{.name = "row_dot", .bind = bind_row_dot, .accumulates = true};

void differentiate_rows(GradContext& g) {
  Builder& b = g.builder();
  const Id dy = g.output_grad(0);
  if (g.wants(0)) g.add(0, scale_rows(b, dy, g.in(1)));
  if (g.wants(1))
    g.add(1, b.append(kRowDot, {dy, g.in(0)}, {{b.value(g.in(1)).shape, DType::f32}})[0]);
}

void bind_rows(BindContext& c) {
  c.run(c.kernels.scale_axis, ScaleAxis{c.in(0), c.in(1), {}, c.out(0), ScaleAxis::By::row});
}

const Op kScaleRows{.name = "scale_rows",
                    .differentiate = differentiate_rows,
                    .bind = bind_rows,
                    .cost = Cost::cheap,
                    .in_place = true};

// The denominator is a detached norm: nothing wants its gradient.
void differentiate_divide(GradContext& g) {
  if (g.wants(0)) g.add(0, divide(g.builder(), g.output_grad(0), g.in(1)));
}

void bind_divide(BindContext& c) {
  c.run(c.kernels.divide, Divide{c.in(0), c.in(1), c.out(0)});
}

const Op kDivide{.name = "divide",
                 .differentiate = differentiate_divide,
                 .bind = bind_divide,
                 .cost = Cost::cheap,
                 .in_place = true};

}  // namespace

Id scale(Builder& b, Id x, float by) {
  if (by == 1.0f) return x;
  const Value& v = b.value(x);
  return b.append(kScale, {x}, {{v.shape, v.dtype}}, Factor{by})[0];
}

Id scale_columns(Builder& b, Id x_TC, Id factor_C, Id bias_C) {
  const Value& x = b.value(x_TC);
  b.check(
      b.value(factor_C).shape.count() == x.shape.cols() && b.value(factor_C).dtype == DType::f32,
      "scale_columns", "needs one f32 factor a column");
  return b.append(kScaleColumns, {x_TC, factor_C, bias_C}, {{x.shape, x.dtype}})[0];
}

Id scale_rows(Builder& b, Id x_TC, Id factor_T) {
  const Value& x = b.value(x_TC);
  b.check(x.dtype == DType::f32 && b.value(factor_T).shape.count() == x.shape.rows() &&
              b.value(factor_T).dtype == DType::f32,
          "scale_rows", "needs f32 and one factor a row");
  return b.append(kScaleRows, {x_TC, factor_T}, {{x.shape, x.dtype}})[0];
}

Id divide(Builder& b, Id a, Id other) {
  const Value& v = b.value(a);
  b.check(v.shape == b.value(other).shape && v.dtype == DType::f32 &&
              b.value(other).dtype == DType::f32,
          "divide", "both sides need one shape, in f32");
  return b.append(kDivide, {a, other}, {{v.shape, v.dtype}})[0];
}

}  // namespace qat
