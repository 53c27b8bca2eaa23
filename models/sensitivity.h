// How much each decoder layer suffers when it alone is quantized: the order in which a careful
// schedule enables them.
#pragma once

#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/calibrate_forward.h"

namespace qat {

struct LayerSensitivity {
  int64_t layer = 0;
  double kl = 0.0;             ///< mean over tokens of KL(unquantized || only this layer quantized)
  double loss_increase = 0.0;  ///< of the mean cross-entropy, nats
};

/// Of every layer with a linear in the plan, in layer order. Static grids must lie in the Store
/// (calibrate first). Logs a table. Refuses batches without a target.
std::vector<LayerSensitivity> measure_sensitivity(const MeasuredModel& model, const QuantPlan& plan,
                                                  const std::vector<Batch>& batches);

/// The layers by rising KL (at equal KL the lower layer first): what QuantScheduleOptions::list
/// takes with EnableOrder::listed.
std::vector<int64_t> least_damaging_first(const std::vector<LayerSensitivity>& layers);

}  // namespace qat
