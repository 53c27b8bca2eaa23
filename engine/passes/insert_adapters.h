// Gives linears their adapters and their packed matrices. Runs before insert_quantizers.
#pragma once

#include "engine/graph/graph.h"
#include "engine/quant/adapter_plan.h"
#include "engine/quant/quant_plan.h"

namespace qat {

enum class DropoutMode : uint8_t { off, on };

/// Rewrites each linear that the plan names. Where its layer is to be quantized, the matrix becomes
/// the merged one (W + scale B A, times magnitude / norm for DoRA), so that what lands on the grid
/// is what is deployed; elsewhere the low-rank product runs beside the frozen one and the merged
/// matrix never exists. Packed matrices are dequantized within the product. Returns the number of
/// linears with adapters.
int insert_adapters(Graph& graph, const AdapterPlan& plan, const QuantPlan& quantized,
                    const EnabledLayers& enabled, DropoutMode dropout);

}  // namespace qat
