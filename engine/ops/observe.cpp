// observe: running statistics of a value, for calibration. Its results are states of the Store,
// which it reads and widens, so they stand among its inputs (as the caches of attention_cached do).
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

struct Attributes {
  float bottom, top;
};

// inputs: x, column_amax, min_max, histogram.
void bind(BindContext& c) {
  const auto& a = c.attribute<Attributes>();
  c.run(c.kernels.observe, Observe{.x_TC = c.in(0),
                                   .column_amax_C = c.in(1),
                                   .min_max = c.in(2),
                                   .histogram = c.in(3),
                                   .histogram_top = a.top,
                                   .histogram_bottom = a.bottom});
}

}  // namespace

const Op kObserve{.name = "observe", .bind = bind, .reads_run_state = true};

void observe(Builder& b, Id x_TC, const ObserveInto& into) {
  const auto is_state = [&](Id id, DType dtype, int64_t count) {
    if (id == kNone) return true;
    const Value& v = b.value(id);
    return v.kind == Kind::state && v.dtype == dtype && (count == 0 || v.shape.count() == count);
  };
  b.check(is_state(into.column_amax_C, DType::f32, b.value(x_TC).shape.cols()) &&
              is_state(into.min_max, DType::f32, 2) && is_state(into.histogram, DType::i64, 0),
          "observe", "column_amax f32 [C], min_max f32 [2] and histogram i64 must be states");
  b.check(into.histogram == kNone || into.histogram_top > into.histogram_bottom, "observe",
          "a histogram needs a range");
  b.append(kObserve, {x_TC, into.column_amax_C, into.min_max, into.histogram}, {},
           Attributes{into.histogram_bottom, into.histogram_top});
}

}  // namespace qat
