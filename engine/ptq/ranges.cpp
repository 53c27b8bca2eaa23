#include "engine/ptq/ranges.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qat {

namespace {

// Ends of the range tried by the search: 2^(-i/16) of the seen ones, down to 1/256.
constexpr int kClipSteps = 129;
float clip_fraction(int step) {
  return float(std::exp2(-double(step) / 16.0));
}

Extent clipped(Extent seen, float low_fraction, float high_fraction) {
  return {seen.low * low_fraction, seen.high * high_fraction};
}

Extent within(Extent seen, float threshold) {
  return {std::max(seen.low, -threshold), std::min(seen.high, threshold)};
}

class Search {
 public:
  Search(const QuantSpec& spec, const Histogram& histogram) : spec_(spec), histogram_(histogram) {}

  void attempt(Extent range) {
    const Grid grid = grid_over(spec_, range);
    const double error = expected_error(histogram_, spec_, grid);
    if (error >= least_) return;
    least_ = error;
    best_ = grid;
  }
  double least() const { return least_; }
  Grid best() const { return best_; }

 private:
  const QuantSpec& spec_;
  const Histogram& histogram_;
  double least_ = std::numeric_limits<double>::infinity();
  Grid best_{};
};

Grid least_error_grid(const QuantSpec& spec, Extent seen, const Histogram& histogram) {
  Search search(spec, histogram);
  if (spec.symmetric()) {
    const float amax = amax_of(seen);
    for (int step = 0; step < kClipSteps; ++step)
      search.attempt(within(seen, amax * clip_fraction(step)));
    return search.best();
  }
  // Both ends together first, then each in turn while that helps.
  int low = 0, high = 0;
  const auto attempt = [&](int low_step, int high_step) {
    const double before = search.least();
    search.attempt(clipped(seen, clip_fraction(low_step), clip_fraction(high_step)));
    if (search.least() >= before) return;
    low = low_step;
    high = high_step;
  };
  for (int step = 0; step < kClipSteps; ++step) attempt(step, step);
  for (double before = std::numeric_limits<double>::infinity(); search.least() < before;) {
    before = search.least();
    for (int step = 0, fixed = high; step < kClipSteps; ++step) attempt(step, fixed);
    for (int step = 0, fixed = low; step < kClipSteps; ++step) attempt(fixed, step);
  }
  return search.best();
}

}  // namespace

Extent histogram_extent(const QuantSpec& spec, Extent seen) {
  Extent extent = finite_extent({std::min(seen.low, 0.0f), std::max(seen.high, 0.0f)});
  if (spec.symmetric() || extent.low == extent.high) {
    const float amax = std::max(amax_of(extent), kSmallestNormal);
    extent = {-amax, amax};
  }
  // The kernel divides by the width: it must be a finite float.
  return {std::max(extent.low, -0.25f * kLargestFloat),
          std::min(extent.high, 0.25f * kLargestFloat)};
}

Grid grid_over(const QuantSpec& spec, Extent range) {
  const Extent held{std::min(range.low, 0.0f), std::max(range.high, 0.0f)};
  const float peak = -held.low > held.high ? held.low : held.high;
  return make_grid(spec, held, raw_scale(spec, held, peak));
}

Grid calibrated_grid(const QuantSpec& spec, const RangeOptions& options, Extent seen,
                     const Histogram& histogram) {
  switch (options.rule) {
    case RangeRule::min_max:
      break;
    case RangeRule::percentile: {
      const double share = options.percentile / 100.0;
      if (spec.symmetric())
        return grid_over(spec, within(seen, float(quantile(magnitudes(histogram), share))));
      const float low = float(quantile(histogram, 0.5 - 0.5 * share));
      const float high = float(quantile(histogram, 0.5 + 0.5 * share));
      return grid_over(spec, {std::max(seen.low, low), std::min(seen.high, high)});
    }
    case RangeRule::mse:
      return least_error_grid(spec, seen, histogram);
  }
  return grid_over(spec, seen);
}

}  // namespace qat
