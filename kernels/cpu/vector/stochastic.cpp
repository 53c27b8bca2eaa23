// Quantization that rounds at random: the next code above or below, by how near it is. The noise of
// an element follows from seed, step and the element's index in its tensor.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/random_halves.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

struct CodeRangeLanes {
  Lanes low, high;
};

/// Adds noise in (-1/2, 1/2) before rounding to nearest; gives kShift + code - zero.
QAT_LANES_INLINE Lanes noisy_code(Lanes x, Lanes inverse, Lanes noise, CodeRangeLanes range) {
  return min(max((x * inverse + noise) + all(kShift), range.low), range.high);
}

template <class From, class Part>
QAT_LANES_INLINE void put(int8_t* y, const From* x, const float* noise, Grid grid, Lanes inverse,
                          CodeRangeLanes range, Part part) {
  const Lanes code =
      noisy_code(load(x, part) - all(grid.minimum), inverse, load(noise, part), range);
  store_shifted(y, code + all(grid.zero), part);
}
template <class From, class To, class Part>
QAT_LANES_INLINE void put(To* y, const From* x, const float* noise, Grid grid, Lanes inverse,
                          CodeRangeLanes range, Part part) {
  const Lanes code =
      noisy_code(load(x, part) - all(grid.minimum), inverse, load(noise, part), range) -
      all(kShift);
  store(y, code * all(grid.scale) + all(grid.minimum), part);
}

template <class From, class To>
void quantize_run(const StochasticJob& job) {
  const SegmentJob& s = job.segments;
  const From* x = static_cast<const From*>(s.x);
  To* y = static_cast<To*>(s.y);
  const int64_t last = job.first + s.segments * s.length;
  alignas(64) uint32_t halves[kRandomBlock];
  alignas(64) float noise[kRandomBlock];
  for (int64_t block = job.first / kRandomBlock * kRandomBlock; block < last;
       block += kRandomBlock) {
    random_halves(job.seed, job.step, block, halves);
    for (int i = 0; i < kRandomBlock; ++i)
      noise[i] = (float(int(halves[i])) + 0.5f) * 0x1p-16f - 0.5f;
    int64_t at = block < job.first ? job.first : block;
    const int64_t end = last < block + kRandomBlock ? last : block + kRandomBlock;
    while (at < end) {
      const int64_t segment = (at - job.first) / s.length;
      const int64_t next = job.first + (segment + 1) * s.length;
      const int64_t count = (next < end ? next : end) - at;
      const Grid grid = stored_grid(s.spec, s.given_scale[segment],
                                    s.given_zero != nullptr ? s.given_zero[segment] : 0.0f);
      const Lanes inverse = all(1.0f / grid.scale);
      const CodeRangeLanes range = {all(kShift + float(s.spec.qmin()) - grid.zero),
                                    all(kShift + float(s.spec.qmax()) - grid.zero)};
      const From* from = x + (at - job.first);
      To* to = y + (at - job.first);
      const float* moved = noise + (at - block);
      over_lanes(count, [=](int64_t i, auto part) {
        put(to + i, from + i, moved + i, grid, inverse, range, part);
      });
      at += count;
    }
  }
}

template <class From>
void quantize_from(const StochasticJob& job) {
  if (job.segments.y_type == DType::i8)
    quantize_run<From, int8_t>(job);
  else if (job.segments.y_type == DType::f32)
    quantize_run<From, float>(job);
  else
    quantize_run<From, BFloat16>(job);
}

void quantize_stochastically(const StochasticJob& job) {
  if (job.segments.x_type == DType::f32)
    quantize_from<float>(job);
  else
    quantize_from<BFloat16>(job);
}

}  // namespace

void fill_stochastic(VectorKernels& table) {
  table.quantize_stochastically = quantize_stochastically;
}

}  // namespace qat::cpu::QAT_LANES
