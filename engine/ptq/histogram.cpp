#include "engine/ptq/histogram.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/error.h"

namespace qat {

namespace {

// Antiderivative of (v - nearest integer)^2.
double rounding_integral(double v) {
  const double nearest = std::nearbyint(v), rest = v - nearest;
  return nearest / 12.0 + rest * rest * rest / 3.0;
}

// Antiderivative of the squared error at v = x / scale, where codes stand for the integers
// low..high.
double error_integral(double v, double low, double high) {
  const double inside = std::clamp(v, low, high), beyond = v - inside;
  return rounding_integral(inside) + beyond * beyond * beyond / 3.0;
}

}  // namespace

int64_t Histogram::total() const {
  return std::accumulate(counts.begin(), counts.end(), int64_t(0));
}

Histogram magnitudes(const Histogram& histogram) {
  const size_t bins = histogram.counts.size(), half = bins / 2;
  if (bins % 2 != 0 || histogram.bottom != -histogram.top)
    internal_error("magnitudes: the histogram is not even about 0");
  Histogram result{std::vector<int64_t>(half), 0.0, histogram.top};
  for (size_t i = 0; i < half; ++i)
    result.counts[i] = histogram.counts[half + i] + histogram.counts[half - 1 - i];
  return result;
}

double quantile(const Histogram& histogram, double share) {
  const double wanted = share * double(histogram.total());
  double below = 0.0, result = 0.0;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    const double here = double(histogram.counts[i]);
    if (here == 0.0) continue;
    const double part = std::clamp((wanted - below) / here, 0.0, 1.0);
    result = histogram.bottom + (double(i) + part) * histogram.bin_width();
    below += here;
    if (below >= wanted) break;
  }
  return result;
}

double expected_error(const Histogram& histogram, const QuantSpec& spec, Grid grid) {
  const double scale = double(grid.scale);
  const double low = double(spec.qmin()) - double(grid.zero);
  const double high = double(spec.qmax()) - double(grid.zero);
  const double step = histogram.bin_width() / scale;
  double sum = 0.0;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    if (histogram.counts[i] == 0) continue;
    const double begin = histogram.bottom / scale + double(i) * step;
    const double error =
        (error_integral(begin + step, low, high) - error_integral(begin, low, high)) / step;
    sum += double(histogram.counts[i]) * error;
  }
  return scale * scale * sum / double(std::max<int64_t>(1, histogram.total()));
}

}  // namespace qat
