// Scales of weights that are trained (LSQ): where they start, and as files hold them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "engine/runtime/store.h"
#include "kernels/kernels.h"

namespace qat {

/// What a trained scale starts from.
enum class ScaleStart : uint8_t {
  rule,  ///< the grid's own rule (QuantSpec::rule)
  lsq    ///< 2 mean|w| / sqrt(qmax)
};

/// Writes the scales (and zero points) of the planned linears with trained ones, from the masters
/// as they are now, for the paths that `wanted` takes. Returns how many.
int64_t start_trained_scales(const QuantPlan& plan, ScaleStart start,
                             const std::function<bool(const std::string& path)>& wanted,
                             Store& store, const KernelTable& kernels, Stream& stream);

/// The scales a linear's trained numbers stand for.
std::vector<float> trained_scales(const std::string& path, const QuantSpec& spec,
                                  const Store& store, const KernelTable& kernels, Stream& stream);

}  // namespace qat
