// What a plan quantizes, for people and for --json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "models/config.h"

namespace qat {

/// One object for each different scheme: how many linears have it, "weights" and "activations"
/// (bits, symmetric, per, group, dynamic), or null where that side is not quantized.
nlohmann::ordered_json quantization_json(const QuantPlan& plan);
/// "210 linears: int4 weights per group of 32, int8 activations per token".
std::vector<std::string> quantization_lines(const QuantPlan& plan);
/// "150 weights of 4 bits, 60 of 8", by falling number; empty where all have as many.
std::string mixed_widths_text(const QuantPlan& plan);
/// "int4 per group of 32 with zero points, scales in f16" of a plan that has a KV cache.
std::string kv_cache_text(const QuantPlan& plan);
nlohmann::ordered_json kv_cache_json(const QuantPlan& plan);
/// All of a plan that tells apart what two models compute of the same weights.
std::string plan_identity(const QuantPlan& plan);
/// What a cached number takes, its share of scales and zero points included.
double kv_cache_bits(const QuantPlan& plan, const ModelConfig& config);
/// "int4 per group of 32, symmetric". row_word: "channel" or "token".
std::string grid_text(const QuantSpec& spec, const char* row_word);

}  // namespace qat
