#include "models/calibrate.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ptq/observations.h"

namespace qat {

namespace {

// One pass of the unquantized model over the batches; the statistics are then in the Store.
std::vector<ObservedInput> observe(const MeasuredModel& model,
                                   const std::vector<std::string>& paths,
                                   const std::vector<Batch>& batches, const ObserveWhat& what) {
  const DecoderBuild build = build_for(model, batches);
  Graph graph;
  Builder b(graph);
  decoder_hidden(b, model.config, build);
  const std::vector<ObservedInput> inputs = insert_observers(graph, paths, what);
  reset_observations(inputs, what.statistic, model.store);
  model.adapt(graph);
  MeasuringProgram program(std::move(graph), {}, model, build);
  program.run_prologue();
  for (const Batch& batch : batches) program.run(batch);
  return inputs;
}

std::vector<std::string> static_linears(const QuantPlan& plan) {
  std::vector<std::string> paths;
  for (const auto& [path, quant] : plan.linears) {
    if (!quant.activation || !quant.static_activation) continue;
    if (quant.activation->per != Per::tensor)
      internal_error("calibration: {} has a static activation that is not per tensor", path);
    paths.push_back(path);
  }
  return paths;
}

void write(Store& store, const std::string& name, float value) {
  store.make(name, {1}, DType::f32, Category::state).as<float>()[0] = value;
}

}  // namespace

std::vector<CalibratedInput> calibrate_activations(const MeasuredModel& model,
                                                   const QuantPlan& plan,
                                                   const std::vector<Batch>& batches,
                                                   const RangeOptions& options) {
  const std::vector<std::string> paths = static_linears(plan);
  if (paths.empty()) return {};
  const auto spec_of = [&](const std::string& path) { return *plan.linears.at(path).activation; };

  std::vector<ObservedInput> inputs = observe(model, paths, batches, {});
  ObserveWhat histograms{.statistic = ObserveWhat::Statistic::histogram};
  std::vector<Extent> seen;
  for (const ObservedInput& input : inputs) {
    for (const std::string& path : input.linears)
      if (spec_of(path) != spec_of(input.path))
        internal_error("calibration: {} and {} read one value on two grids", input.path, path);
    seen.push_back(seen_extent(input, model.store));
    const Extent range = histogram_extent(spec_of(input.path), seen.back());
    histograms.ranges[input.path] = {range.low, range.high};
  }
  if (options.rule != RangeRule::min_max) observe(model, paths, batches, histograms);

  std::vector<CalibratedInput> result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ObservedInput& input = inputs[i];
    const QuantSpec spec = spec_of(input.path);
    Histogram histogram;
    if (options.rule != RangeRule::min_max)
      histogram = seen_histogram(input, histograms.ranges.at(input.path), model.store);
    const Grid grid = calibrated_grid(spec, options, seen[i], histogram);
    for (const std::string& path : input.linears) {
      write(model.store, activation_scale_name(path), grid.scale);
      if (!spec.symmetric()) write(model.store, activation_zero_name(path), grid.zero);
    }
    log::debug("calibrated {} ({} linears): seen [{:.4g}, {:.4g}], scale {:.4g}, zero {}",
               input.path, input.linears.size(), seen[i].low, seen[i].high, grid.scale, grid.zero);
    result.push_back({input.linears, seen[i], grid});
  }
  erase_observations(inputs, model.store);
  return result;
}

std::vector<ColumnAmax> observe_column_amax(const MeasuredModel& model,
                                            const std::vector<std::string>& paths,
                                            const std::vector<Batch>& batches) {
  const std::vector<ObservedInput> inputs = observe(model, paths, batches, {});
  std::vector<ColumnAmax> result;
  for (const ObservedInput& input : inputs) {
    seen_extent(input, model.store);
    result.push_back({input, seen_column_amax(input, model.store)});
  }
  erase_observations(inputs, model.store);
  return result;
}

std::vector<InputHistogram> observe_histograms(const MeasuredModel& model,
                                               const std::vector<std::string>& paths,
                                               const std::vector<Batch>& batches) {
  ObserveWhat histograms{.statistic = ObserveWhat::Statistic::histogram};
  const std::vector<ObservedInput> inputs = observe(model, paths, batches, {});
  for (const ObservedInput& input : inputs) {
    const Extent seen = seen_extent(input, model.store);
    const float most = std::max({std::abs(float(seen.low)), std::abs(float(seen.high)), 1e-30f});
    histograms.ranges[input.path] = {-most, most};
  }
  observe(model, paths, batches, histograms);
  std::vector<InputHistogram> result;
  for (const ObservedInput& input : inputs)
    result.push_back({input, seen_histogram(input, histograms.ranges.at(input.path), model.store)});
  erase_observations(inputs, model.store);
  return result;
}

}  // namespace qat
