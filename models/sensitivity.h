// How much the model suffers when a part of it alone is quantized: of each decoder layer, the order
// in which a careful schedule enables them; of each matrix and width, what bits it should get.
#pragma once

#include <functional>
#include <map>
#include <string>
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

/// Linears of one layer that have the same bits: runtimes multiply q, k, v as one matrix, and gate,
/// up as another.
struct WidthUnit {
  int64_t layer = 0;
  std::vector<std::string> linears;
};

/// Mean over tokens of KL(unquantized || only this unit's weights quantized), by bits.
using KlByWidth = std::map<int, double>;

/// Of units in layer order under the plan of each width: weights alone, rounded to nearest by their
/// grid's rule. Each measurement runs the layers from the unit's on, and the head. Logs its
/// progress. `stop` is asked between two; after true the result is empty. Refuses batches without a
/// target, and a model that does not compute numbers.
std::vector<KlByWidth> measure_widths(const MeasuredModel& model,
                                      const std::vector<WidthUnit>& units,
                                      const std::map<int, QuantPlan>& plans,
                                      const std::vector<Batch>& batches,
                                      const std::function<bool()>& stop = {});
/// The same of all weights of each plan together.
std::vector<double> measure_weights(const MeasuredModel& model, const std::vector<QuantPlan>& plans,
                                    const std::vector<Batch>& batches);

}  // namespace qat
