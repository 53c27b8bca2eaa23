// PEFT adapter directories (adapter_config.json, adapter_model.safetensors), written and read.
// https://github.com/huggingface/peft
#pragma once

#include <map>
#include <string>

#include "engine/quant/adapter_plan.h"
#include "engine/runtime/store.h"
#include "kernels/kernels.h"
#include "models/config.h"

namespace qat {

/// Writes `directory`, reads it back and compares it bit for bit before it gets its name. `base` is
/// what the adapter belongs to: a path or a hub name.
void export_peft(const std::string& directory, const AdapterPlan& plan, const ModelConfig& config,
                 const std::string& base, const Store& store);

/// The linears an adapter directory covers. Refuses by name what is not read: other methods than
/// LoRA and DoRA, trained biases, adapters of embeddings, modules this model does not have.
std::map<std::string, LinearAdapter> read_peft_plan(const std::string& directory,
                                                    const ModelConfig& config);

/// Reads the tensors of the plan's adapters into the Store, as the plan's dtype.
void load_peft(const std::string& directory, const AdapterPlan& plan, const ModelConfig& config,
               Store& store, const KernelTable& kernels, Stream& stream);

}  // namespace qat
