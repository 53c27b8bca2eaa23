#include "models/prepare.h"

#include <chrono>

#include "engine/core/log.h"

namespace qat {

namespace {

const char* name_of(RangeRule rule) {
  switch (rule) {
    case RangeRule::min_max:
      return "min_max";
    case RangeRule::percentile:
      return "percentile";
    case RangeRule::mse:
      return "mse";
  }
  return "?";
}

void start_scales(const MeasuredModel& model, const QuantPlan& plan, ScaleStart start) {
  start_trained_scales(
      plan, start, [](const std::string&) { return true; }, model.store, model.kernels,
      model.stream);
}

// The first batches, until they hold `samples` sequences.
std::vector<Batch> leading(const std::vector<Batch>& batches, int64_t samples) {
  std::vector<Batch> result;
  for (int64_t held = 0; const Batch& batch : batches) {
    if (held >= samples) break;
    result.push_back(batch);
    held += batch.rows;
  }
  return result;
}

}  // namespace

bool needs_calibration(const QuantPlan& plan, const PrepareOptions& options) {
  if (plan.empty()) return false;
  if (options.smooth.mode != SmoothMode::off) return true;
  if (options.sensitivity == MeasureSensitivity::yes) return true;
  if (options.solve.solver != Solver::round_to_nearest) return true;
  for (const auto& [path, quant] : plan.linears)
    if (quant.activation && quant.static_activation) return true;
  return false;
}

PreparedModel prepare_for_quantization(const MeasuredModel& model, const QuantPlan& plan,
                                       const std::vector<Batch>& batches,
                                       const PrepareOptions& options) {
  PreparedModel result;
  if (!needs_calibration(plan, options)) {
    start_scales(model, plan, options.scale_start);
    return result;
  }
  const auto start = std::chrono::steady_clock::now();
  result.smoothed = smooth(model, plan, batches, options.smooth);
  start_scales(model, plan, options.scale_start);
  result.calibrated = calibrate_activations(model, plan, batches, options.range);
  if (!result.calibrated.empty())
    log::info("calibrated {} activations ({})", result.calibrated.size(),
              name_of(options.range.rule));
  result.solved = solve(model, plan, batches, options.solve, options.stop);
  if (options.stop && options.stop()) return result;
  if (options.sensitivity == MeasureSensitivity::yes) {
    result.sensitivity =
        measure_sensitivity(model, plan, leading(batches, options.sensitivity_samples));
    result.order = least_damaging_first(result.sensitivity);
  }
  int64_t sequences = 0;
  for (const Batch& batch : batches) sequences += batch.rows;
  log::info("prepared on {} sequences of {} tokens in {:.1f} s", sequences, batches[0].sequence,
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return result;
}

}  // namespace qat
