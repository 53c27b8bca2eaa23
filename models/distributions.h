// What the weights and activations of a few matrices look like, as histograms: before and after
// smoothing they show what moved from one to the other.
#pragma once

#include <string>
#include <vector>

#include "models/calibrate_forward.h"

namespace qat {

struct Distribution {
  std::string path;  ///< of a linear
  double low = 0, high = 0;
  std::vector<int64_t> counts;  ///< of equal parts of [low, high]
};
inline constexpr int64_t kDistributionBins = 64;

/// One of q_proj and one of down_proj in the first, the middle and the last layer.
std::vector<std::string> shown_linears(const ModelConfig& config);

/// Of the weights in the Store; paths whose weights are not there as numbers are left out.
std::vector<Distribution> weight_distributions(const MeasuredModel& model,
                                               const std::vector<std::string>& paths);
/// Of the inputs, while the unquantized model reads the batches; none without batches.
std::vector<Distribution> input_distributions(const MeasuredModel& model,
                                              const std::vector<std::string>& paths,
                                              const std::vector<Batch>& batches);

}  // namespace qat
