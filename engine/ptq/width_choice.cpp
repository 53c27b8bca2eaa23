#include "engine/ptq/width_choice.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/core/error.h"

namespace qat {

namespace {

constexpr int64_t kMostSizes = int64_t{1} << 17;

int64_t smallest(const std::vector<WidthOption>& options) {
  if (options.empty()) internal_error("a choice of widths has a unit without options");
  int64_t size = std::numeric_limits<int64_t>::max();
  for (const WidthOption& option : options) size = std::min(size, option.size);
  return size;
}

}  // namespace

std::vector<size_t> least_harm(const std::vector<std::vector<WidthOption>>& units, int64_t budget) {
  // All that counts is what a unit takes beyond its smallest option.
  int64_t step = 0, most = 0, left = budget;
  for (const auto& options : units) {
    const int64_t base = smallest(options);
    int64_t largest = 0;
    for (const WidthOption& option : options) {
      step = std::gcd(step, option.size - base);
      largest = std::max(largest, option.size - base);
    }
    most += largest;
    left -= base;
  }
  if (left < 0) internal_error("a budget of {} is {} below the smallest choice", budget, -left);
  left = std::min(left, most);
  if (step == 0) step = 1;
  step *= std::max<int64_t>(1, (left / step + kMostSizes - 1) / kMostSizes);
  const int64_t sizes = left / step + 1;

  // least[s]: of the units so far, with s steps beyond their smallest options or fewer.
  std::vector<double> least(size_t(sizes), 0.0);
  std::vector<std::vector<uint8_t>> taken;
  const auto steps_of = [&](const std::vector<WidthOption>& options, size_t option) {
    return (options[option].size - smallest(options) + step - 1) / step;
  };
  for (const auto& options : units) {
    std::vector<size_t> order(options.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return options[a].size < options[b].size; });
    std::vector<double> next(size_t(sizes), std::numeric_limits<double>::infinity());
    std::vector<uint8_t>& choice = taken.emplace_back(size_t(sizes), uint8_t{0});
    for (const size_t option : order) {
      const int64_t steps = steps_of(options, option);
      for (int64_t s = steps; s < sizes; ++s) {
        const double harm = least[size_t(s - steps)] + options[option].harm;
        if (harm < next[size_t(s)]) {
          next[size_t(s)] = harm;
          choice[size_t(s)] = uint8_t(option);
        }
      }
    }
    least = std::move(next);
  }

  int64_t at = sizes - 1;
  while (at > 0 && least[size_t(at - 1)] == least[size_t(at)]) --at;
  std::vector<size_t> result(units.size());
  for (size_t unit = units.size(); unit-- > 0;) {
    result[unit] = taken[unit][size_t(at)];
    at -= steps_of(units[unit], result[unit]);
  }
  return result;
}

}  // namespace qat
