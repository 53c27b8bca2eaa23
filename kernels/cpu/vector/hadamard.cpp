// The transform of kernels/hadamard.h: Sylvester's matrix of order 16 within a vector, butterflies
// between vectors, then Hartley's matrix between runs. Every sum has one order.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

constexpr int kOrder = 16;

/// Sylvester's matrix of order 16: -1 where row and column share an odd number of bits.
struct Signs {
  alignas(64) float rows[kOrder][kOrder];
  Signs() {
    for (int i = 0; i < kOrder; ++i)
      for (int j = 0; j < kOrder; ++j) rows[i][j] = __builtin_popcount(i & j) % 2 ? -1.0f : 1.0f;
  }
};

QAT_LANES_INLINE void transform_sixteen(float* x, const Signs& signs) {
  Lanes sums[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  for (int i = 0; i < kOrder; ++i) sums[i % 4] = sums[i % 4] + all(x[i]) * load(signs.rows[i]);
  store(x, (sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// (a, b) becomes (a + b, a - b) for all pairs `step` apart.
QAT_LANES_INLINE void butterflies(float* x, int64_t count, int64_t step) {
  for (int64_t begin = 0; begin < count; begin += 2 * step)
    for (int64_t i = begin; i < begin + step; i += 16) {
      const Lanes a = load(x + i), b = load(x + i + step);
      store(x + i, a + b);
      store(x + i + step, a - b);
    }
}

void butterflies_of_few(float* x, int64_t count, int64_t step) {
  for (int64_t begin = 0; begin < count; begin += 2 * step)
    for (int64_t i = begin; i < begin + step; ++i) {
      const float a = x[i], b = x[i + step];
      x[i] = a + b;
      x[i + step] = a - b;
    }
}

/// Sylvester's matrix of order `power` on each run of so many elements.
void transform_runs(float* x, int64_t count, int64_t power, const Signs& signs) {
  if (power < kOrder) {
    for (int64_t step = 1; step < power; step *= 2) butterflies_of_few(x, count, step);
    return;
  }
  for (int64_t i = 0; i < count; i += kOrder) transform_sixteen(x + i, signs);
  for (int64_t step = kOrder; step < power; step *= 2) butterflies(x, count, step);
}

/// y = Hartley's matrix times the runs of x.
void mix_runs(const float* x, float* y, const HadamardJob& job) {
  for (int64_t a = 0; a < job.odd; ++a)
    over_lanes(job.power, [&](int64_t i, auto part) {
      Lanes total = all(0.0f);
      for (int64_t from = 0, k = 0; from < job.odd; ++from) {
        total = total + load(x + from * job.power + i, part) * all(job.hartley[k]);
        k += a;
        if (k >= job.odd) k -= job.odd;
      }
      store(y + a * job.power + i, total, part);
    });
}

template <class T>
void transform_pieces(const HadamardJob& job) {
  const Signs signs;
  const T* x = static_cast<const T*>(job.x);
  T* y = static_cast<T*>(job.y);
  const int64_t width = job.odd * job.power;
  const Lanes shrink = all(1.0f / __builtin_sqrtf(float(job.power)));
  float* values = job.work;
  float* mixed = job.odd > 1 ? job.work + width : values;
  for (int64_t piece = 0; piece < job.pieces; ++piece, x += width, y += width) {
    over_lanes(width, [=](int64_t i, auto part) { store(values + i, load(x + i, part), part); });
    transform_runs(values, width, job.power, signs);
    if (job.odd > 1) mix_runs(values, mixed, job);
    over_lanes(width,
               [=](int64_t i, auto part) { store(y + i, load(mixed + i, part) * shrink, part); });
  }
}

void hadamard(const HadamardJob& job) {
  if (job.type == DType::f32)
    transform_pieces<float>(job);
  else
    transform_pieces<BFloat16>(job);
}

}  // namespace

void fill_hadamard(VectorKernels& table) {
  table.hadamard = hadamard;
}

}  // namespace qat::cpu::QAT_LANES
