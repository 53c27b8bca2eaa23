// The search for SmoothQuant's alpha, one pair at a time.
#pragma once

#include <vector>

#include "models/smooth.h"

namespace qat {

/// A pair and what its factors are made of: maxima by column.
struct SmoothCandidate {
  SmoothPair pair;
  std::vector<float> input_amax, weight_amax;
};

/// The best alpha of each candidate, on the first `tokens` tokens of the batches; changes nothing.
std::vector<SmoothedPair> search_alphas(const MeasuredModel& model, const QuantPlan& plan,
                                        const std::vector<Batch>& batches,
                                        const std::vector<SmoothCandidate>& candidates,
                                        int64_t tokens);

}  // namespace qat
