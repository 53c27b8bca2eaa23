// A model run decoder layer by decoder layer over calibration batches: memory holds the hidden
// states of all tokens at one depth and the program of one layer.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/calibrate_forward.h"

namespace qat {

class LayerStream {
 public:
  /// Embeds the tokens of the batches; `plan` says how the embeddings are quantized.
  LayerStream(const MeasuredModel& model, const std::vector<Batch>& batches, const QuantPlan& plan);

  /// Runs the layer that is next, quantized as `plan` says, and hands out what the linears in
  /// `paths` (of that layer) multiply, batch by batch; what does not lead to them is not computed.
  /// Linears that read one value are handed out together, under the first one's path; only the
  /// first `rows` rows of a view are of the batch itself.
  using Visit = std::function<void(const std::string& path, const View& x_TK, int64_t rows)>;
  void observe(const QuantPlan& plan, const std::vector<std::string>& paths, const Visit& visit);
  /// Replaces the hidden states by what the next layer makes of them.
  void advance(const QuantPlan& plan);

  int64_t layer() const { return layer_; }
  /// A batch's hidden states [T, C] before that layer, as they lie in memory.
  const std::vector<std::byte>& states(size_t batch) const { return states_[batch]; }
  /// For the memory plan: of the hidden states, and of the arena of the largest program, without
  /// running anything.
  static size_t state_bytes(const ModelConfig& config, int64_t sequences, int64_t sequence,
                            DType dtype);
  static size_t arena_bytes(const ModelConfig& config, const QuantPlan& plan,
                            const DecoderBuild& build, const KernelTable& kernels);

 private:
  void run(Graph graph, const std::vector<Id>& results,
           const std::function<void(const MeasuringProgram&, size_t batch)>& after);

  const MeasuredModel& model_;
  const std::vector<Batch>& batches_;
  DecoderBuild build_;
  std::vector<std::vector<std::byte>> states_;  ///< of each batch, [T, C]
  int64_t layer_ = 0;
};

}  // namespace qat
