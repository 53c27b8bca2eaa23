// Quantize and fake quantize on the GPU, and the arithmetic they share: scales and codes by
// kernels/quant_math.h, with the bits that the CPU finds.
#pragma once

#include "kernels/cuda/lanes.h"
#include "kernels/kernels.h"
#include "kernels/quant_math.h"

namespace qat::cuda {

/// A grid and what finds its codes.
struct Coder {
  Grid grid;
  float inverse;
};

inline constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, half to even

/// The code of x as it is stored: an integer, or the bits of a float8.
QAT_DEVICE uint8_t code_bits(float x, const Coder& coder, const QuantSpec& spec, CodeRange range) {
  if (spec.form == Form::e4m3) return e4m3_code(x * coder.inverse);
  const float counted = spec.counts_from_minimum() ? x - coder.grid.minimum : x;
  return uint8_t(int8_t(code_of(counted, coder.inverse, coder.grid.zero, range)));
}

/// The value of the code of x.
QAT_DEVICE float value_on_grid(float x, const Coder& coder, const QuantSpec& spec,
                               CodeRange range) {
  const Grid& grid = coder.grid;
  if (is_nan(grid.scale)) return grid.scale;
  if (spec.form == Form::e4m3) return round_e4m3(x * coder.inverse) * grid.scale;
  const float counted = spec.counts_from_minimum() ? x - grid.minimum : x;
  const float steps = code_of(counted, coder.inverse, grid.zero, range) - grid.zero;
  return spec.counts_from_minimum() ? steps * grid.scale + grid.minimum : steps * grid.scale;
}

template <int kWidth>
QAT_DEVICE void put(int8_t* y, const float (&x)[kWidth], const Coder& coder, const QuantSpec& spec,
                    CodeRange range) {
  uint8_t codes[kWidth];
  for (int k = 0; k < kWidth; ++k) codes[k] = code_bits(x[k], coder, spec, range);
  store_bytes(y, codes);
}
template <int kWidth, class To>
QAT_DEVICE void put(To* y, const float (&x)[kWidth], const Coder& coder, const QuantSpec& spec,
                    CodeRange range) {
  float values[kWidth];
  for (int k = 0; k < kWidth; ++k) values[k] = value_on_grid(x[k], coder, spec, range);
  store(y, values);
}

/// Elements that share a scale (Per::row, Per::group; of a whole tensor the elements are one run).
inline int64_t segment_length(const ConstView& x, const QuantSpec& spec) {
  if (spec.per == Per::tensor) return x.count();
  return spec.per == Per::group ? spec.group : x.cols();
}

/// Runs quantize or fake quantize: y holds codes (i8), values, or is empty for the grid alone.
void run_quantize(const ConstView& x, const ConstView& given_scale, const ConstView& given_zero,
                  const View& y, const View& scale, const View& zero, const QuantSpec& spec,
                  Stream& stream);

/// Rounds x at random onto the grids in `scale` and `zero` (which may be empty).
void run_stochastic(const ConstView& x, const ConstView& scale, const ConstView& zero,
                    const View& y, const QuantSpec& spec, const RoundingNoise& noise,
                    Stream& stream);

}  // namespace qat::cuda
