// all_gather, reduce_scatter, all_reduce, take_rows: what the shard pass puts around parameters and
// gradients. They are made after gradients exist, so they have no gradient rules.
#include "engine/ops/collectives.h"

#include <cstring>

#include "engine/core/error.h"
#include "engine/graph/op.h"

namespace qat {

namespace {

size_t row_bytes(const View& tensor) {
  return tensor.bytes() / size_t(tensor.shape[0]);
}

std::span<float> floats(const View& view) {
  return {view.as<float>(), size_t(view.count())};
}

// In elements, as the communicator counts.
std::vector<int64_t> in_elements(const Partition& rows, const View& tensor) {
  std::vector<int64_t> bounds = rows.bounds();
  for (int64_t& bound : bounds) bound *= tensor.count() / tensor.shape[0];
  return bounds;
}

// in: this rank's rows; out: all of them.
void bind_all_gather(BindContext& c) {
  const auto& a = c.attribute<DealtRows>();
  const View mine = c.in(0), all = c.out(0);
  c.call([&ranks = *a.ranks, bounds = a.rows.bounds(), mine, all](Stream&, const RunState&) {
    const size_t row = row_bytes(all);
    if (mine.bytes() > 0)
      std::memcpy(all.data + size_t(bounds[size_t(ranks.rank())]) * row, mine.data, mine.bytes());
    ranks.all_gather(all.data, row, bounds);
  });
}

// in: all rows, overwritten in part; out: the sum over the ranks of this rank's rows.
void bind_reduce_scatter(BindContext& c) {
  const auto& a = c.attribute<DealtRows>();
  const View all = c.in(0), mine = c.out(0);
  const View own = rows_of(all, a.rows.of(a.ranks->rank()));
  c.call([&ranks = *a.ranks, bounds = in_elements(a.rows, all), all, own, mine,
          mode = c.node().accumulate,
          add = c.kernels.add.run](Stream& stream, const RunState& state) {
    const bool adds =
        mode == Accumulate::always || (mode == Accumulate::across_runs && !state.first_micro_batch);
    ranks.reduce_scatter(floats(all), bounds, adds ? floats(own) : floats(mine));
    if (adds) add({mine, own, mine}, stream);
  });
}

void bind_all_reduce(BindContext& c) {
  const View x = c.in(0), y = c.out(0);
  c.call([&ranks = *c.attribute<Communicator*>(), x, y](Stream&, const RunState&) {
    if (y.data != x.data) std::memcpy(y.data, x.data, x.bytes());
    ranks.all_reduce(floats(y));
  });
}

void bind_take_rows(BindContext& c) {
  const auto& a = c.attribute<DealtRows>();
  const View own = rows_of(c.in(0), a.rows.of(a.ranks->rank())), mine = c.out(0);
  c.call([own, mine](Stream&, const RunState&) {
    if (mine.bytes() > 0) std::memcpy(mine.data, own.data, mine.bytes());
  });
}

}  // namespace

const Op kAllGather{.name = "all_gather", .bind = bind_all_gather};
const Op kReduceScatter{.name = "reduce_scatter", .bind = bind_reduce_scatter, .accumulates = true};
const Op kAllReduce{.name = "all_reduce", .bind = bind_all_reduce, .in_place = true};
const Op kTakeRows{.name = "take_rows", .bind = bind_take_rows};

}  // namespace qat
