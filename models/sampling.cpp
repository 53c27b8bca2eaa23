#include "models/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/random.h"

namespace qat {
namespace {

constexpr uint64_t kStream = 0x67656e;  // "gen"

std::vector<float> penalised(std::span<const float> logits, std::span<const int32_t> seen,
                             double penalty) {
  std::vector<float> result(logits.begin(), logits.end());
  if (penalty == 1.0) return result;
  for (const int32_t token : std::set<int32_t>(seen.begin(), seen.end())) {
    float& logit = result[size_t(token)];
    logit = float(logit > 0 ? double(logit) / penalty : double(logit) * penalty);
  }
  return result;
}

}  // namespace

int32_t sample(std::span<const float> given, std::span<const int32_t> seen,
               const SamplingOptions& options, uint64_t index) {
  const std::vector<float> logits = penalised(given, seen, options.repetition_penalty);
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (options.temperature <= 0.0) return int32_t(likeliest - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  size_t kept = options.top_k > 0 ? std::min(size_t(options.top_k), order.size()) : order.size();
  if (kept < order.size() || options.top_p < 1.0)
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
  std::vector<double> weight(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i)
    total += weight[i] =
        std::exp((double(logits[size_t(order[i])]) - double(*likeliest)) / options.temperature);
  if (options.top_p < 1.0) {
    double share = 0;
    for (size_t i = 0; i < kept; ++i) {
      share += weight[i];
      if (share >= options.top_p * total) kept = i + 1;
    }
  }
  // The likeliest token weighs 1.
  for (size_t i = 0; i < kept; ++i)
    if (weight[i] < options.min_p) weight[i] = 0.0;
  total = std::accumulate(weight.begin(), weight.begin() + int64_t(kept), 0.0);
  double at = double(uniform01(philox(options.seed, kStream, index)[0])) * total;
  int32_t last = order[0];
  for (size_t i = 0; i < kept; ++i) {
    if (weight[i] == 0.0) continue;
    last = order[i];
    at -= weight[i];
    if (at < 0) break;
  }
  return last;
}

}  // namespace qat
