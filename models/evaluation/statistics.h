// Confidence intervals by the bootstrap: rows are drawn again with replacement, by counted random
// numbers, so that the same rows always give the same interval.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace qat {

/// The middle 95% of what the statistic is over resampled rows.
struct Interval {
  double low = 0, high = 0;
};

/// A statistic of the rows whose numbers are given (a number may come several times).
using RowStatistic = std::function<double(std::span<const uint32_t> rows)>;

/// Resamples `rows` rows kResamples times. Both ends are the statistic itself for a single row.
Interval bootstrap(size_t rows, const RowStatistic& statistic);
inline constexpr int kResamples = 1000;

/// Of the mean, and of exp(mean): accuracies, and perplexities of mean negative log-likelihoods.
Interval bootstrap_mean(const std::vector<double>& values);
Interval bootstrap_exp_mean(const std::vector<double>& values);

double mean(const std::vector<double>& values);

}  // namespace qat
