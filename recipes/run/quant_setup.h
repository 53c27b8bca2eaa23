// From the recipe's `quantize` section to a plan: which linear gets which grids.
#pragma once

#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "engine/runtime/store.h"
#include "models/config.h"
#include "recipes/run/recipe/recipe.h"

namespace qat {

struct QuantSetup {
  QuantPlan plan;
  std::vector<std::string> fallbacks;  ///< matrices that a preset's blocks do not fit, for the log
  std::vector<std::string> notes;      ///< what else the log should say
};

/// A pattern of quantize.include or .exclude names a linear by the end of its path ("q_proj",
/// "mlp.down_proj") or by a glob over the whole path ("model.layers.0.*").
bool matches(const std::string& pattern, const std::string& path);

/// Refuses patterns that match nothing, layers that do not exist, and a group written by hand that
/// does not divide a matrix's rows. A preset's group that does not divide falls back as the preset
/// says: to int8 rows, to smaller groups, or, as llama.cpp's own quantizer does, to a type of
/// smaller blocks, to unquantized (F16 in a GGUF file) where none fits.
QuantSetup make_quant_setup(const recipe::QuantizeOptions& quantize, const ModelConfig& config);

/// The grid of every layer's KV cache. Refuses a group that does not divide a token's keys.
std::map<std::string, QuantSpec> kv_cache_plan(const recipe::KvCacheQuant& kv,
                                               const ModelConfig& config);

/// Puts the masters of planned weights where ggml's own quantizer would (quantize.weights.rounding:
/// ggml), so that their codes are llama.cpp's.
void round_masters_as_ggml(const QuantPlan& plan, Store& store);

}  // namespace qat
