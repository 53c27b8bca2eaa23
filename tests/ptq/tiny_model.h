// A model of tests/golden (or any directory) with its weights in a Store, batches of token ids, and
// its logits: what the tests of calibration, smoothing and sensitivity run on.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "models/calibrate_forward.h"
#include "models/graphs.h"
#include "models/source.h"

namespace qat::test {

class TinyModel {
 public:
  explicit TinyModel(const std::string& directory, DType weights = DType::f32)
      : config(ModelSource::open(directory)->config()), weight_dtype(weights) {
    load_parameters(*ModelSource::open(directory), store, "", weights, Category::masters);
    fill_rope_table(config, store, "");
  }

  MeasuredModel measured(DType dtype = DType::f32) {
    return {config, store, cpu_kernels(), stream, dtype, weight_dtype};
  }

  /// Random sequences in batches of `rows`.
  std::vector<Batch> batches(int64_t count, int64_t rows, int64_t sequence, unsigned seed = 1) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int32_t> id(0, int32_t(config.vocab) - 1);
    std::vector<Batch> result;
    for (int64_t n = 0; n < count; ++n) {
      Batch batch;
      batch.rows = rows;
      batch.sequence = sequence;
      for (int64_t i = 0; i < rows * sequence; ++i) {
        batch.ids.push_back(id(generator));
        batch.positions.push_back(int32_t(i % sequence));
        batch.first.push_back(0);
      }
      for (int64_t i = 0; i < rows * sequence; ++i)
        batch.targets.push_back((i + 1) % sequence ? batch.ids[size_t(i) + 1] : -1);
      batch.valid_targets = rows * (sequence - 1);
      result.push_back(std::move(batch));
    }
    return result;
  }

  /// Multiplies element `column` of a layer's attention norm by `factor` and divides that column of
  /// q, k, v by it: the same function, with an outlier in their input.
  void add_outlier(int64_t layer, int64_t column, float factor) {
    const std::string name = fmt::format("model.layers.{}.", layer);
    store.get(name + "input_layernorm.weight").as<float>()[column] *= factor;
    for (const char* which : {"q_proj", "k_proj", "v_proj"}) {
      const View w = store.get(name + "self_attn." + which + ".weight");
      for (int64_t row = 0; row < w.rows(); ++row) w.as<float>()[row * w.cols() + column] /= factor;
    }
  }

  /// Of the model in f32.
  std::vector<float> logits(const Batch& batch, const QuantPlan& plan = {}) {
    ForwardSpec spec;
    spec.config = config;
    spec.plan = plan;
    spec.build.batch = batch.rows;
    spec.build.sequence = batch.sequence;
    spec.build.dtype = DType::f32;
    spec.build.weight_dtype = weight_dtype;
    spec.output = ForwardSpec::Output::logits;
    ForwardGraph forward = build_forward_graph(spec);
    const MeasuredModel model = measured();
    MeasuringProgram program(std::move(forward.graph), {forward.logits}, model, spec.build);
    program.run_prologue();
    program.run(batch);
    const View view = program.view(forward.logits);
    return {view.as<float>(), view.as<float>() + view.count()};
  }

  ModelConfig config;
  DType weight_dtype;
  Store store;
  Stream stream;
};

inline QuantSpec weight_spec(int bits = 8) {
  return {.bits = bits, .per = Per::row};
}
inline QuantSpec token_spec(int bits = 8) {
  return {.bits = bits, .per = Per::row};
}
inline QuantSpec tensor_spec(int bits = 8, Range range = Range::strict) {
  return {.bits = bits, .per = Per::tensor, .range = range};
}

/// Every linear of the model, its activation dynamic.
inline QuantPlan dynamic_plan(const ModelConfig& config, QuantSpec weight, QuantSpec activation) {
  QuantPlan plan;
  for (const std::string& path : decoder_linears(config))
    plan.linears[path] = {weight, activation, false};
  return plan;
}
/// Every linear of the model, its activation on a calibrated grid.
inline QuantPlan static_plan(const ModelConfig& config, QuantSpec weight, QuantSpec activation) {
  QuantPlan plan = dynamic_plan(config, weight, activation);
  for (auto& [path, quant] : plan.linears) quant.static_activation = true;
  return plan;
}

/// |a - b| / |b|.
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, size = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(double(a[i]) - double(b[i]), 2);
    size += double(b[i]) * double(b[i]);
  }
  return std::sqrt(difference / size);
}

}  // namespace qat::test
