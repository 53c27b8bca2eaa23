#include "models/distributions.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/ptq/observations.h"
#include "engine/ptq/values.h"
#include "models/calibrate.h"

namespace qat {
namespace {

// The histogram's range is symmetric, so that 0 lies on a border of the two middle bins.
Distribution counted(const std::string& path, const std::vector<float>& values) {
  double most = 0;
  for (const float value : values) most = std::max(most, double(std::abs(value)));
  Distribution result{path, -most, most, std::vector<int64_t>(size_t(kDistributionBins), 0)};
  if (most == 0) return result;
  for (const float value : values) {
    const auto bin = int64_t((double(value) + most) / (2 * most) * double(kDistributionBins));
    ++result.counts[size_t(std::clamp<int64_t>(bin, 0, kDistributionBins - 1))];
  }
  return result;
}

}  // namespace

std::vector<std::string> shown_linears(const ModelConfig& config) {
  std::vector<std::string> paths;
  for (const int64_t layer : std::set<int64_t>{0, config.layers / 2, config.layers - 1})
    for (const char* linear : {"self_attn.q_proj", "mlp.down_proj"})
      paths.push_back("model.layers." + std::to_string(layer) + "." + linear);
  return paths;
}

std::vector<Distribution> weight_distributions(const MeasuredModel& model,
                                               const std::vector<std::string>& paths) {
  std::vector<Distribution> found;
  for (const std::string& path : paths) {
    const View weight = model.store.find(path + ".weight");
    if (!weight || (weight.dtype != DType::f32 && weight.dtype != DType::bf16)) continue;
    std::vector<float> values(static_cast<size_t>(weight.count()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = value_at(weight, int64_t(i));
    found.push_back(counted(path, values));
  }
  return found;
}

std::vector<Distribution> input_distributions(const MeasuredModel& model,
                                              const std::vector<std::string>& paths,
                                              const std::vector<Batch>& batches) {
  std::vector<Distribution> found;
  if (batches.empty()) return found;
  for (const InputHistogram& input : observe_histograms(model, paths, batches)) {
    Distribution result{input.input.path, input.histogram.bottom, input.histogram.top,
                        std::vector<int64_t>(size_t(kDistributionBins), 0)};
    const size_t bins = input.histogram.counts.size();
    for (size_t i = 0; i < bins; ++i)
      result.counts[i * size_t(kDistributionBins) / bins] += input.histogram.counts[i];
    found.push_back(std::move(result));
  }
  return found;
}

}  // namespace qat
