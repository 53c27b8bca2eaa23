// SmoothQuant on a decoder (Xiao et al., 2023): a factor a column goes out of what makes a linear's
// input and into the linear's columns, so that the model computes the same. Three places fold
// exactly: a norm's weight (read by q, k, v or gate, up), the rows of up_proj (its output meets the
// gate elementwise on the way to down_proj), and the rows of v_proj (attention only mixes tokens on
// the way to o_proj; heads that share a value head share its factors).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/calibrate_forward.h"

namespace qat {

/// Where factors go out.
enum class SmoothFold : uint8_t { norm, up_proj, v_proj };
/// All three.
std::vector<SmoothFold> every_fold();

/// What makes an input, and the linears that read it.
struct SmoothPair {
  SmoothFold fold;
  std::string from;  ///< path of the norm or linear, e.g. model.layers.3.mlp.up_proj
  std::vector<std::string> linears;  ///< paths
};
/// Every pair of these kinds; those of up_proj and v_proj first, whose rows the others' columns
/// cross.
std::vector<SmoothPair> smooth_pairs(const ModelConfig& config,
                                     const std::vector<SmoothFold>& folds);

enum class SmoothMode : uint8_t {
  off,
  fixed,  ///< one alpha for all
  search  ///< each pair's own alpha, or none
};
struct SmoothOptions {
  SmoothMode mode = SmoothMode::off;
  float alpha = 0.5f;           ///< when fixed, in [0, 1]: the share of the difficulty that moves
  int64_t search_tokens = 512;  ///< of the calibration text, on which the search compares
  std::vector<SmoothFold> folds = every_fold();
};

/// What was done to one pair.
struct SmoothedPair {
  std::string from;
  std::optional<float> alpha;  ///< none: left as it was
  /// Of the search: the quantized output's squared error relative to the output's squares, the mean
  /// over tokens summed over the pair's linears; as it was, and with alpha.
  double error_before = 0.0, error_after = 0.0;
};

/// By column of the linears, a number that columns which must get one factor have in common: those
/// that one row of v_proj feeds. Empty where each column has its own.
std::vector<int64_t> shared_factors(const SmoothPair& pair, const ModelConfig& config);

/// Folds s (see engine/ptq/smoothing.h), one factor a column of the linears, into one pair.
void fold(const SmoothPair& pair, std::span<const float> factors, const ModelConfig& config,
          Store& store);

/// Smooths every pair that has a linear in the plan, by what its inputs are on the batches. Masters
/// in the Store change (bf16 ones are rounded), so it may run once only in the life of a model. The
/// search takes a pair's alpha from none, 0.1, 0.2 .. 0.9 by the least error_after.
std::vector<SmoothedPair> smooth(const MeasuredModel& model, const QuantPlan& plan,
                                 const std::vector<Batch>& batches, const SmoothOptions& options);

}  // namespace qat
