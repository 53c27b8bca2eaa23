#include "models/calibrate_forward.h"

#include <algorithm>
#include <cstring>

#include "engine/core/error.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

constexpr const char* kInputs[] = {kTokens, kTargets, kPositions, kFirst, kInvTokens};

void erase_inputs(Store& store) {
  for (const char* name : kInputs) store.erase(name);
}

Program compile(Graph graph, const std::vector<Id>& results, const MeasuredModel& model) {
  eliminate_dead(graph, results);
  hoist(graph);
  verify(graph);
  erase_inputs(model.store);
  return Program::compile(std::move(graph), results, model.store, model.kernels);
}

// Tokens of row `row` before its padding: that attends to itself alone and is no target.
int64_t real_tokens(const Batch& batch, int64_t row) {
  const int64_t begin = row * batch.sequence;
  int64_t count = batch.sequence;
  while (count > 0 && batch.targets[size_t(begin + count - 1)] < 0 &&
         batch.first[size_t(begin + count - 1)] == count - 1)
    --count;
  return count;
}

// The batch with `rows` rows and no padding: each row is repeated from its start where text ends.
Batch without_padding(const Batch& batch, int64_t rows) {
  Batch result;
  result.rows = rows;
  result.sequence = batch.sequence;
  const auto append = [&](int64_t row, bool copy) {
    const int64_t begin = row * batch.sequence;
    const int64_t real = real_tokens(batch, row) > 0 ? real_tokens(batch, row) : batch.sequence;
    for (int64_t t = 0; t < batch.sequence; ++t) {
      const size_t from = size_t(begin + t % real);
      result.ids.push_back(batch.ids[from]);
      result.positions.push_back(batch.positions[from]);
      result.first.push_back(batch.first[from] + int32_t(t - t % real));
      result.targets.push_back(copy || t >= real ? -1 : batch.targets[from]);
    }
  };
  for (int64_t row = 0; row < rows; ++row) append(row % batch.rows, row >= batch.rows);
  return result;
}

}  // namespace

void MeasuredModel::adapt(Graph& graph, const QuantPlan& quantized,
                          const EnabledLayers& enabled) const {
  if (adapters) insert_adapters(graph, *adapters, quantized, enabled, DropoutMode::off);
}

std::vector<Batch> calibration_batches(const std::function<Batch(int64_t rows)>& next,
                                       int64_t samples, int64_t rows) {
  std::vector<Batch> batches;
  for (int64_t left = samples; left > 0; left -= rows)
    batches.push_back(next(std::min(left, rows)));
  return batches;
}

DecoderBuild build_for(const MeasuredModel& model, const std::vector<Batch>& batches) {
  if (batches.empty())
    refuse("calibration needs at least one sequence; set quantize.calibrate.samples to 1 or more");
  DecoderBuild build;
  build.sequence = batches[0].sequence;
  build.dtype = model.dtype;
  build.weight_dtype = model.weight_dtype;
  for (const Batch& batch : batches) {
    build.batch = std::max(build.batch, batch.rows);
    if (batch.sequence != build.sequence)
      internal_error("calibration batches have {} and {} tokens a sequence", build.sequence,
                     batch.sequence);
  }
  if (build.sequence > model.config.max_positions)
    refuse(
        "calibration sequences of {} tokens are longer than the model's max_position_embeddings "
        "({}); lower data.sequence",
        build.sequence, model.config.max_positions);
  return build;
}

MeasuringProgram::MeasuringProgram(Graph graph, const std::vector<Id>& results,
                                   const MeasuredModel& model, const DecoderBuild& build)
    : model_(model), build_(build), program_(compile(std::move(graph), results, model)) {
  if (const View scale = model.store.find(kInvTokens)) scale.as<float>()[0] = 1.0f;
}

MeasuringProgram::~MeasuringProgram() {
  erase_inputs(model_.store);
}

void MeasuringProgram::run_prologue() {
  program_.run_prologue(model_.stream);
}

void MeasuringProgram::run(const Batch& given) {
  const Batch batch = without_padding(given, build_.batch);
  const auto fill = [&](const char* name, const std::vector<int32_t>& from) {
    if (const View view = model_.store.find(name))
      std::memcpy(view.data, from.data(), from.size() * sizeof(int32_t));
  };
  fill(kTokens, batch.ids);
  fill(kTargets, batch.targets);
  fill(kPositions, batch.positions);
  fill(kFirst, batch.first);
  program_.run_body(model_.stream, {});
}

}  // namespace qat
