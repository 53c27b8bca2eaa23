// A frozen base and the adapters on it, in a Store: loading, first values, identity, merging.
#pragma once

#include <string>
#include <vector>

#include "engine/quant/adapter_plan.h"
#include "engine/runtime/store.h"
#include "kernels/kernels.h"
#include "models/config.h"
#include "models/source.h"

namespace qat {

/// The tensors that are trained, in the order of the forward pass: A, B and, for DoRA, magnitudes.
std::vector<SourceTensor> adapter_tensors(const AdapterPlan& plan, const ModelConfig& config);
/// Bytes of the frozen base: packed matrices, the others as `dtype`, norms and biases in f32.
size_t base_bytes(const AdapterPlan& plan, const ModelConfig& config, DType dtype);

/// Reads the source into the Store one tensor at a time; matrices the plan packs never lie there
/// whole.
void load_base(const ModelSource& source, const AdapterPlan& plan, DType dtype, Store& store,
               const KernelTable& kernels, Stream& stream);
/// A uniform in +-1/sqrt(columns) (Kaiming with a = sqrt 5), B zero, magnitudes the row lengths of
/// the base: the model starts as the base alone.
void initialize_adapters(const AdapterPlan& plan, const ModelConfig& config, uint64_t seed,
                         Store& store, const KernelTable& kernels, Stream& stream);

/// 32 hexadecimal digits over all that is frozen, as it is stored.
std::string base_identity(const Store& store);

/// The matrix [O, K] of a linear as f32 with its adapter merged: the kernels of a quantized
/// training step, so that an export puts on the grid what was trained there.
void merged_weight(const AdapterPlan& plan, const std::string& path, const Shape& shape,
                   const Store& store, const KernelTable& kernels, Stream& stream, float* out);

}  // namespace qat
