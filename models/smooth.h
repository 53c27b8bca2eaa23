// SmoothQuant on a decoder: each layer's two norms feed linears (q, k, v; gate, up), and a factor a
// column goes out of the norm's weight and into those linears' columns. The model computes the
// same.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/calibrate_forward.h"

namespace qat {

/// A norm and the linears that read it.
struct NormPair {
  std::string norm;                  ///< path, e.g. model.layers.3.input_layernorm
  std::vector<std::string> linears;  ///< paths
};
/// In forward order.
std::vector<NormPair> norm_pairs(const ModelConfig& config);

enum class SmoothMode : uint8_t {
  off,
  fixed,  ///< one alpha for all
  search  ///< each pair's own alpha, or none
};
struct SmoothOptions {
  SmoothMode mode = SmoothMode::off;
  float alpha = 0.5f;           ///< when fixed, in [0, 1]: the share of the difficulty that moves
  int64_t search_tokens = 512;  ///< of the calibration text, on which the search compares
};

/// What was done to one pair.
struct SmoothedPair {
  std::string norm;
  std::optional<float> alpha;  ///< none: left as it was
  /// Of the search: sum over the pair's planned linears of the squared error of their quantized
  /// output, relative to the output's squares; as it was, and with alpha.
  double error_before = 0.0, error_after = 0.0;
};

/// Folds s (see engine/ptq/smoothing.h) into one pair: norm.weight /= s, columns of the linears *=
/// s.
void fold(const NormPair& pair, std::span<const float> factors, Store& store);

/// Smooths every pair that has a linear in the plan, by what its inputs are on the batches. Masters
/// in the Store change (bf16 ones are rounded), so it may run once only in the life of a model. The
/// search takes a pair's alpha from none, 0.1, 0.2 .. 0.9 by the least error_after.
std::vector<SmoothedPair> smooth(const MeasuredModel& model, const QuantPlan& plan,
                                 const std::vector<Batch>& batches, const SmoothOptions& options);

}  // namespace qat
