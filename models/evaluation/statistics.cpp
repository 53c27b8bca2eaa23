#include "models/evaluation/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/random.h"

namespace qat {
namespace {

constexpr uint64_t kSeed = 1234, kStream = 0x626f6f74;  // "boot"
constexpr double kShare = 0.95;

// Linear between the two nearest order statistics.
double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * double(sorted.size() - 1);
  const size_t below = size_t(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - double(below)) * (sorted[above] - sorted[below]);
}

double mean_of(const std::vector<double>& values, std::span<const uint32_t> rows) {
  double sum = 0;
  for (const uint32_t row : rows) sum += values[row];
  return sum / double(rows.size());
}

}  // namespace

double mean(const std::vector<double>& values) {
  if (values.empty()) return 0.0;
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

Interval bootstrap(size_t rows, const RowStatistic& statistic) {
  if (rows == 0) return {};
  std::vector<uint32_t> drawn(rows);
  std::vector<double> found;
  found.reserve(kResamples);
  for (int sample = 0; sample < kResamples; ++sample) {
    for (size_t i = 0; i < rows; i += 4) {
      const auto words = philox(kSeed, (kStream << 32) + uint64_t(sample), i);
      // The high half of a product, so that every row is as likely as the others.
      for (size_t j = i; j < std::min(i + 4, rows); ++j)
        drawn[j] = uint32_t((uint64_t(words[j - i]) * rows) >> 32);
    }
    found.push_back(statistic(drawn));
  }
  std::sort(found.begin(), found.end());
  return {quantile(found, (1 - kShare) / 2), quantile(found, (1 + kShare) / 2)};
}

Interval bootstrap_mean(const std::vector<double>& values) {
  return bootstrap(values.size(),
                   [&](std::span<const uint32_t> rows) { return mean_of(values, rows); });
}

Interval bootstrap_exp_mean(const std::vector<double>& values) {
  return bootstrap(values.size(),
                   [&](std::span<const uint32_t> rows) { return std::exp(mean_of(values, rows)); });
}

}  // namespace qat
