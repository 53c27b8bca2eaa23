// What happens to a model between loading and training (or a PTQ export): smoothing, calibration,
// the solving for codes and, when the schedule asks, the measurement of sensitivity, in the order
// in which each needs the other.
#pragma once

#include <vector>

#include "engine/ptq/trained_scales.h"
#include "models/calibrate.h"
#include "models/sensitivity.h"
#include "models/smooth.h"
#include "models/solve.h"

namespace qat {

enum class MeasureSensitivity : uint8_t { no, yes };

struct PrepareOptions {
  SmoothOptions smooth;
  RangeOptions range;
  SolveOptions solve = {};
  /// Asked now and then in what takes long: true ends it, and what follows it is left out.
  std::function<bool()> stop = {};
  MeasureSensitivity sensitivity = MeasureSensitivity::no;
  /// Sequences that sensitivity is measured on, the first of the batches: each costs a forward a
  /// layer.
  int64_t sensitivity_samples = 16;
  ScaleStart scale_start = ScaleStart::rule;  ///< of trained scales
};

struct PreparedModel {
  std::vector<SmoothedPair> smoothed;       ///< empty when off
  std::vector<CalibratedInput> calibrated;  ///< empty when no activation is static
  std::vector<SolvedLinear> solved;         ///< empty when rounded to nearest
  std::vector<LayerSensitivity> sensitivity;
  std::vector<int64_t> order;  ///< of layers, least damaging first; empty unless measured
};

/// Whether any of it needs calibration text.
bool needs_calibration(const QuantPlan& plan, const PrepareOptions& options);

/// Smooths the masters in the Store, writes the static grids, the solver's codes and the first
/// trained scales there, measures sensitivity. Once in the life of a model: a run that resumes takes
/// masters, grids and order from its checkpoint.
PreparedModel prepare_for_quantization(const MeasuredModel& model, const QuantPlan& plan,
                                       const std::vector<Batch>& batches,
                                       const PrepareOptions& options);

}  // namespace qat
