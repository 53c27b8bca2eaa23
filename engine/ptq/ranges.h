// The grid of a calibrated activation, from the extremes and the histogram of its values.
#pragma once

#include <cstdint>

#include "engine/ptq/histogram.h"
#include "kernels/quant_math.h"

namespace qat {

/// How a calibrated range follows from what was seen.
enum class RangeRule : uint8_t {
  min_max,     ///< all of it
  percentile,  ///< symmetric: that percentile of |x|; asymmetric: as much is cut, half at each end
  mse          ///< the range of least expected squared error of quantization
};

struct RangeOptions {
  RangeRule rule = RangeRule::min_max;
  double percentile = 99.9;
};

/// The interval that a histogram should cover: it holds 0, and for a symmetric spec it is even.
/// Never empty.
Extent histogram_extent(const QuantSpec& spec, Extent seen);

/// The grid by the spec's own scale rule and scale type over a range clipped to [low, high].
Grid grid_over(const QuantSpec& spec, Extent range);

/// seen: smallest and largest value. The histogram (over histogram_extent) is not read by min_max.
Grid calibrated_grid(const QuantSpec& spec, const RangeOptions& options, Extent seen,
                     const Histogram& histogram);

}  // namespace qat
