// Extents, column maxima and sums of squares.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

template <class T>
void column_amax_run(float* amax, const T* x, int64_t count) {
  over_lanes(count, [=](int64_t i, auto part) {
    store(amax + i, max(abs(load(x + i, part)), load(amax + i, part)), part);
  });
}

void column_amax(float* amax, const void* x, DType type, int64_t count) {
  if (type == DType::f32)
    column_amax_run(amax, static_cast<const float*>(x), count);
  else
    column_amax_run(amax, static_cast<const BFloat16*>(x), count);
}

/// Thirty-two f64 partial sums: element i goes to sum i % 32.
template <class T>
double sum_squares_run(const T* x, int64_t count, int64_t* bad) {
  double sums[32] = {};
  int64_t i = 0;
  const auto square = [&](int lane, float value) { sums[lane] += double(value) * double(value); };
  for (; i + 32 <= count; i += 32)
    for (int lane = 0; lane < 32; ++lane) square(lane, to_float(x[i + lane]));
  for (int lane = 0; i + lane < count; ++lane) square(lane, to_float(x[i + lane]));
  for (int width = 16; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  // Squares of finite floats cannot overflow a double, so only non-finite values give this.
  if (!(sums[0] <= 0x1.FFFFFFFFFFFFFp1023))
    for (i = 0; i < count; ++i) *bad += !(magnitude(to_float(x[i])) <= kLargestFloat);
  return sums[0];
}

double sum_squares(const void* x, DType type, int64_t count, int64_t* bad) {
  return type == DType::f32 ? sum_squares_run(static_cast<const float*>(x), count, bad)
                            : sum_squares_run(static_cast<const BFloat16*>(x), count, bad);
}

}  // namespace

void fill_statistics(VectorKernels& table) {
  table.column_amax = column_amax;
  table.sum_squares = sum_squares;
}

}  // namespace qat::cpu::QAT_LANES
