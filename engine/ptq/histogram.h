// A histogram of an activation's values, and what calibration asks of it. Within a bin the values
// are taken as spread evenly.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/quant_math.h"

namespace qat {

/// counts[i] values in the i-th of equal parts of [bottom, top].
struct Histogram {
  std::vector<int64_t> counts;
  double bottom = 0.0, top = 0.0;

  double bin_width() const { return (top - bottom) / double(counts.size()); }
  int64_t total() const;
};

/// The histogram of |x| for one over [-top, top] with an even number of bins.
Histogram magnitudes(const Histogram& histogram);

/// The value below which the share (0..1) of the values lies, to within a bin. 0 if there are none.
double quantile(const Histogram& histogram, double share);

/// Mean of (x - value of x's code)^2 on a grid: exact for values spread evenly within each bin.
double expected_error(const Histogram& histogram, const QuantSpec& spec, Grid grid);

}  // namespace qat
