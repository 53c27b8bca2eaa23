// Legend: O out channels, K inputs. Sources of the formulas: llm-awq (auto_scale.py, auto_clip.py)
// and, for duo scaling, AutoAWQ (quantizer.py).
#include "engine/ptq/awq.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "engine/core/error.h"
#include "engine/ptq/parallel_rows.h"

namespace qat {

namespace {

std::vector<float> times_columns(std::vector<float> w_OK, std::span<const float> factors) {
  for (size_t i = 0; i < w_OK.size(); ++i) w_OK[i] *= factors[i % factors.size()];
  return w_OK;
}

std::vector<float> over_columns(std::vector<float> w_OK, std::span<const float> factors) {
  for (size_t i = 0; i < w_OK.size(); ++i) w_OK[i] /= factors[i % factors.size()];
  return w_OK;
}

// Columns with one number get the mean of what they have.
void average(std::vector<float>& values, std::span<const int64_t> share) {
  std::map<int64_t, std::pair<double, int64_t>> sums;
  for (size_t i = 0; i < share.size(); ++i) {
    auto& [sum, count] = sums[share[i]];
    sum += double(values[i]);
    ++count;
  }
  for (size_t i = 0; i < share.size(); ++i) {
    const auto& [sum, count] = sums[share[i]];
    values[i] = float(sum / double(count));
  }
}

int64_t group_of(const std::vector<AwqLinear>& linears) {
  for (const AwqLinear& linear : linears)
    if (linear.spec && linear.spec->per == Per::group) return linear.spec->group;
  return 0;
}

std::vector<float> rounded(const AwqLinear& linear, int64_t columns, std::span<const float> factors,
                           const KernelTable& kernels, Stream& stream) {
  const std::vector<float> larger = times_columns(linear.w_OK, factors);
  const SolvedMatrix solved =
      round_to_nearest(larger.data(), linear.rows, columns, *linear.spec, kernels, stream);
  return over_columns(solved.values(), factors);
}

// The diagonal part of a Gram that a group of columns sees.
std::vector<float> part_of(const Gram& inputs, int64_t begin, int64_t count) {
  std::vector<float> part;
  for (int64_t r = begin; r < begin + count; ++r)
    for (int64_t c = begin; c < begin + count; ++c)
      part.push_back(float(inputs.sums()[size_t(r * inputs.columns() + c)]));
  return part;
}

// The grid of w clipped to a share of its largest magnitude.
Grid clipped_grid(const float* w, int64_t count, const QuantSpec& spec, float share) {
  Extent extent = {w[0], w[0]};
  float peak = w[0];
  for (int64_t i = 1; i < count; ++i) {
    extent = {smaller(extent.low, w[i]), larger(extent.high, w[i])};
    if (magnitude(w[i]) > magnitude(peak)) peak = w[i];
  }
  if (!spec.has_minimum()) extent = {smaller(extent.low, 0.0f), larger(extent.high, 0.0f)};
  const float bound = larger(-extent.low, extent.high) * share;
  extent = {larger(extent.low, -bound), smaller(extent.high, bound)};
  return make_grid(spec, extent, raw_scale(spec, extent, smaller(larger(peak, -bound), bound)));
}

// The grids of one group of columns, row by row, and the least error each has had so far.
class ClipSearch {
 public:
  ClipSearch(const float* w_OK, const Gram& inputs, int64_t begin, int64_t count,
             SolvedMatrix& result, const KernelTable& kernels, Stream& stream)
      : begin_(begin),
        count_(count),
        result_(result),
        stream_(stream),
        squares_(part_of(inputs, begin, count), count, kernels, stream),
        w_(size_t(result.rows * count)),
        least_(size_t(result.rows), std::numeric_limits<double>::infinity()) {
    for (int64_t o = 0; o < result.rows; ++o)
      std::copy_n(w_OK + o * result.columns + begin, count, w_.begin() + o * count);
  }

  void run() {
    std::vector<Grid> grids(size_t(result_.rows));
    for (int64_t o = 0; o < result_.rows; ++o) grids[size_t(o)] = result_.grid(index(o));
    attempt(grids);
    constexpr int kSteps = 10, kParts = 20;
    for (int step = 0; step < kSteps; ++step) {
      const float share = 1.0f - float(step) / float(kParts);
      parallel_rows(stream_, result_.rows, [&](int64_t o) {
        grids[size_t(o)] = clipped_grid(w_.data() + o * count_, count_, result_.spec, share);
      });
      attempt(grids);
    }
  }

 private:
  size_t index(int64_t row) const { return result_.grid_index(row, begin_); }

  void attempt(const std::vector<Grid>& grids) {
    error_.resize(w_.size());
    parallel_rows(stream_, result_.rows, [&](int64_t o) {
      const Grid grid = grids[size_t(o)];
      for (int64_t i = o * count_; i < (o + 1) * count_; ++i) {
        const int8_t code = nearest_code(w_[size_t(i)], result_.spec, grid);
        error_[size_t(i)] = value_of(float(code), grid) - w_[size_t(i)];
      }
    });
    const std::vector<double> errors = squares_.by_row(error_);
    for (int64_t o = 0; o < result_.rows; ++o) {
      if (!(errors[size_t(o)] < least_[size_t(o)])) continue;
      least_[size_t(o)] = errors[size_t(o)];
      result_.scales[index(o)] = grids[size_t(o)].scale;
      if (!result_.seconds.empty())
        result_.seconds[index(o)] = second_of(result_.spec, grids[size_t(o)]);
    }
  }

  int64_t begin_, count_;
  SolvedMatrix& result_;
  Stream& stream_;
  OutputSquares squares_;
  std::vector<float> w_, error_;
  std::vector<double> least_;
};

}  // namespace

std::vector<float> mean_relative_weights(const std::vector<AwqLinear>& linears, int64_t columns,
                                         int64_t group) {
  if (group == 0) group = columns;
  std::vector<double> sums(static_cast<size_t>(columns));
  int64_t rows = 0;
  for (const AwqLinear& linear : linears) {
    for (int64_t begin = 0; begin < int64_t(linear.w_OK.size()); begin += group) {
      const float* w = linear.w_OK.data() + begin;
      float amax = 0.0f;
      for (int64_t i = 0; i < group; ++i) amax = std::max(amax, std::fabs(w[i]));
      for (int64_t i = 0; i < group; ++i)
        sums[size_t((begin + i) % columns)] += double(std::fabs(w[i]) / (amax + 1e-6f));
    }
    rows += linear.rows;
  }
  std::vector<float> means;
  for (const double sum : sums) means.push_back(float(sum / double(rows)));
  return means;
}

std::vector<float> awq_factors(std::span<const float> mean_input,
                               std::span<const float> mean_weight, double ratio) {
  std::vector<double> factors;
  for (size_t j = 0; j < mean_input.size(); ++j) {
    double s = std::pow(double(mean_input[j]), ratio);
    if (!mean_weight.empty()) s /= std::pow(double(mean_weight[j]), 1.0 - ratio) + 1e-4;
    factors.push_back(std::max(s, 1e-4));
  }
  const auto [least, most] = std::minmax_element(factors.begin(), factors.end());
  const double middle = std::sqrt(*least * *most);
  std::vector<float> result;
  for (const double s : factors) {
    const float factor = float(s / middle);
    result.push_back(std::isfinite(factor) && factor > 0.0f ? factor : 1.0f);
  }
  return result;
}

AwqScales search_scales(const std::vector<AwqLinear>& linears, const Gram& inputs,
                        const AwqOptions& options, std::span<const int64_t> share,
                        const KernelTable& kernels, Stream& stream) {
  const int64_t K = inputs.columns();
  std::vector<float> mean_input = inputs.mean_magnitudes(), mean_weight;
  if (options.duo_scaling) mean_weight = mean_relative_weights(linears, K, group_of(linears));
  if (!share.empty()) {
    average(mean_input, share);
    if (options.duo_scaling) average(mean_weight, share);
  }
  OutputSquares squares({inputs.sums().begin(), inputs.sums().end()}, K, kernels, stream);
  const auto error = [&](std::span<const float> factors) {
    double sum = 0.0;
    for (const AwqLinear& linear : linears)
      if (linear.spec)
        sum += squares.relative_error(linear.w_OK, rounded(linear, K, factors, kernels, stream));
    return sum;
  };
  AwqScales best;
  best.factors.assign(size_t(K), 1.0f);
  best.error_before = best.error_after = error(best.factors);
  for (int64_t i = 0; i < options.n_grid; ++i) {
    const double ratio = double(i) / double(options.n_grid);
    const std::vector<float> factors = awq_factors(mean_input, mean_weight, ratio);
    const double now = error(factors);
    if (!(now < best.error_after)) continue;
    best.error_after = now;
    best.ratio = ratio;
    best.factors = factors;
  }
  return best;
}

SolvedMatrix round_clipped(const float* w_OK, int64_t rows, const Gram& inputs,
                           const QuantSpec& spec, const KernelTable& kernels, Stream& stream) {
  const int64_t K = inputs.columns();
  SolvedMatrix result = round_to_nearest(w_OK, rows, K, spec, kernels, stream);
  if (spec.per == Per::tensor) return result;
  const int64_t group = spec.per == Per::group ? spec.group : K;
  for (int64_t begin = 0; begin < K; begin += group)
    ClipSearch(w_OK, inputs, begin, group, result, kernels, stream).run();
  parallel_rows(stream, rows, [&](int64_t o) {
    for (int64_t k = 0; k < K; ++k)
      result.codes[size_t(o * K + k)] =
          nearest_code(w_OK[o * K + k], spec, result.grid(result.grid_index(o, k)));
  });
  return result;
}

}  // namespace qat
