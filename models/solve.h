// PTQ solvers on a decoder: codes and grids of its linears chosen layer by layer, each layer
// looking at what the quantized layers before it make of real text. What is chosen lies in the
// Store as codes (LinearQuant::stored_weight, stored_grid). The masters of frozen codes become
// their values; those that training moves (stored_grid) become what the codes were chosen for: in
// the middle of its code a weight would have to go half a code before anything changes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/ptq/awq.h"
#include "engine/ptq/gptq.h"
#include "engine/quant/quant_plan.h"
#include "models/calibrate_forward.h"

namespace qat {

enum class Solver : uint8_t { round_to_nearest, gptq, awq };
const char* name_of(Solver solver);

struct SolveOptions {
  Solver solver = Solver::round_to_nearest;
  GptqOptions gptq;
  AwqOptions awq;
};

struct SolvedLinear {
  std::string path;
  double relative_error = 0.0;  ///< of its outputs on the calibration text
};

/// Solves every decoder linear that has a weight grid in the plan and writes codes and masters.
/// GPTQ takes the inputs of o_proj, of gate and up, and of down_proj from what the matrices before
/// them in the layer became. AWQ folds its factors into norms, v_proj and up_proj first. `stop` is
/// asked before each layer: true ends it early, and what is returned is short. Round to nearest
/// does nothing. Throws Error(diverged) on inputs that are not finite.
std::vector<SolvedLinear> solve(const MeasuredModel& model, const QuantPlan& plan,
                                const std::vector<Batch>& batches, const SolveOptions& options,
                                const std::function<bool()>& stop = {});

/// Writes the values of the codes in the Store over the masters of the plan's linears.
void put_masters_on_codes(const QuantPlan& plan, Store& store, const KernelTable& kernels,
                          Stream& stream);

/// What solving takes beside the model, in bytes.
struct SolveMemory {
  size_t hidden_states = 0, moments = 0, arena = 0;
  size_t total() const { return hidden_states + moments + arena; }
};
SolveMemory plan_solve_memory(const ModelConfig& config, const QuantPlan& plan,
                              const SolveOptions& options, const DecoderBuild& build,
                              int64_t sequences, const KernelTable& kernels);

}  // namespace qat
