// Running a forward graph over calibration batches: what calibration, the search for smoothing
// strengths and the measurement of sensitivity have in common.
#pragma once

#include <functional>
#include <vector>

#include "engine/data/batch.h"
#include "engine/passes/insert_adapters.h"
#include "engine/runtime/program.h"
#include "models/decoder.h"

namespace qat {

/// The model that is measured and what it runs on. Its parameters (without prefix) and the table of
/// rope are in the Store.
struct MeasuredModel {
  const ModelConfig& config;
  Store& store;
  const KernelTable& kernels;
  Stream& stream;
  DType dtype = DType::bf16;        ///< of activations
  DType weight_dtype = DType::f32;  ///< of the matrices in the Store
  const AdapterPlan* adapters = nullptr;

  /// The pass insert_adapters, before quantizers and observers; nothing without a plan.
  void adapt(Graph& graph, const QuantPlan& quantized = {},
             const EnabledLayers& enabled = {}) const;
};

/// `samples` sequences in batches of at most `rows`, from a source that gives the next batch of so
/// many rows.
std::vector<Batch> calibration_batches(const std::function<Batch(int64_t rows)>& next,
                                       int64_t samples, int64_t rows);

/// Rows and tokens a row of the largest batch. Refuses no batches, and batches of several lengths.
DecoderBuild build_for(const MeasuredModel& model, const std::vector<Batch>& batches);

/// A compiled graph and its inputs. Inputs of the Store are made anew for it and removed after it.
class MeasuringProgram {
 public:
  /// Removes dead nodes and hoists before it compiles. No program may run between two calls of run
  /// unless run_prologue is called again.
  MeasuringProgram(Graph graph, const std::vector<Id>& results, const MeasuredModel& model,
                   const DecoderBuild& build);
  ~MeasuringProgram();
  MeasuringProgram(const MeasuringProgram&) = delete;
  MeasuringProgram& operator=(const MeasuringProgram&) = delete;

  /// What depends on parameters only.
  void run_prologue();
  /// Padding and rows that a smaller batch lacks are filled with copies of its tokens that are no
  /// targets, so that statistics see nothing but text.
  void run(const Batch& batch);
  View view(Id id) const { return program_.view(id); }

 private:
  const MeasuredModel& model_;
  DecoderBuild build_;
  Program program_;
};

}  // namespace qat
