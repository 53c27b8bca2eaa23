#include "engine/ptq/observations.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/core/error.h"

namespace qat {

void reset_observations(const std::vector<ObservedInput>& inputs, ObserveWhat::Statistic statistic,
                        Store& store) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const ObservedInput& input : inputs) {
    if (statistic == ObserveWhat::Statistic::histogram) {
      const View view =
          store.make(histogram_name(input.path), {kHistogramBins}, DType::i64, Category::state);
      std::fill_n(view.as<int64_t>(), view.count(), int64_t(0));
      continue;
    }
    const View amax =
        store.make(column_amax_name(input.path), {input.width}, DType::f32, Category::state);
    std::fill_n(amax.as<float>(), amax.count(), 0.0f);
    const View min_max = store.make(min_max_name(input.path), {2}, DType::f32, Category::state);
    min_max.as<float>()[0] = kInfinity;
    min_max.as<float>()[1] = -kInfinity;
  }
}

void erase_observations(const std::vector<ObservedInput>& inputs, Store& store) {
  for (const ObservedInput& input : inputs) {
    store.erase(column_amax_name(input.path));
    store.erase(min_max_name(input.path));
    store.erase(histogram_name(input.path));
  }
}

Extent seen_extent(const ObservedInput& input, const Store& store) {
  const float* seen = store.get(min_max_name(input.path)).as<float>();
  // Observers pass over NaN: where all was NaN, nothing was seen.
  if (!std::isfinite(seen[0]) || !std::isfinite(seen[1]))
    throw Error(Exit::diverged,
                fmt::format("calibration: the input of {} is not finite (smallest {}, largest {}); "
                            "the model or its weights are damaged",
                            input.path, seen[0], seen[1]));
  return {std::min(seen[0], 0.0f), std::max(seen[1], 0.0f)};
}

std::vector<float> seen_column_amax(const ObservedInput& input, const Store& store) {
  const View view = store.get(column_amax_name(input.path));
  return {view.as<float>(), view.as<float>() + view.count()};
}

Histogram seen_histogram(const ObservedInput& input, HistogramRange range, const Store& store) {
  const View view = store.get(histogram_name(input.path));
  return {{view.as<int64_t>(), view.as<int64_t>() + view.count()},
          double(range.bottom),
          double(range.top)};
}

}  // namespace qat
