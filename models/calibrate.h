// Calibration: the ranges of activations, observed while the unquantized model reads real text,
// become the static grids of the plan.
#pragma once

#include <string>
#include <vector>

#include "engine/passes/insert_observers.h"
#include "engine/ptq/histogram.h"
#include "engine/ptq/ranges.h"
#include "engine/quant/quant_plan.h"
#include "models/calibrate_forward.h"

namespace qat {

/// The grid of one value.
struct CalibratedInput {
  std::vector<std::string> linears;  ///< which read it
  Extent seen;
  Grid grid;
};

/// Runs the unquantized model over the batches and writes the grid of every linear whose activation
/// is static (per tensor, symmetric or not) to the Store, under activation_scale_name(path) and
/// activation_zero_name(path): f32 [1]. Linears that read one value get one grid: q, k and v; gate
/// and up. Returns the grids in forward order; nothing to do is fine. Throws Error(diverged) on
/// activations that are not finite.
std::vector<CalibratedInput> calibrate_activations(const MeasuredModel& model,
                                                   const QuantPlan& plan,
                                                   const std::vector<Batch>& batches,
                                                   const RangeOptions& options);

/// Largest |x| of each column of the input of every linear in `paths`.
struct ColumnAmax {
  ObservedInput input;
  std::vector<float> amax;
};
std::vector<ColumnAmax> observe_column_amax(const MeasuredModel& model,
                                            const std::vector<std::string>& paths,
                                            const std::vector<Batch>& batches);

/// What the input of every linear in `paths` holds, over a range symmetric to 0 that is just wide
/// enough.
struct InputHistogram {
  ObservedInput input;
  Histogram histogram;
};
std::vector<InputHistogram> observe_histograms(const MeasuredModel& model,
                                               const std::vector<std::string>& paths,
                                               const std::vector<Batch>& batches);

}  // namespace qat
