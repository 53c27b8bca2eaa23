// GPTQ (Frantar et al., 2023): columns are rounded one after the other, and what rounding one does
// to the outputs is made up for in the columns not rounded yet, as far as the inputs' second
// moments allow.
#pragma once

#include "engine/ptq/gram.h"
#include "engine/ptq/solved_matrix.h"

namespace qat {

/// In which order columns are rounded.
enum class ActOrder : uint8_t {
  none,          ///< as they lie; the grid of a group follows from its weights as updated so far
  fixed_groups,  ///< largest inputs first; grids follow from the weights as they were at the start
  groups  ///< largest inputs first, and groups are of neighbours in that order (desc_act, g_idx)
};

struct GptqOptions {
  double dampening_frac = 0.01;  ///< added to the Hessian's diagonal, of the diagonal's mean
  int64_t block_size = 128;      ///< columns whose errors reach the columns behind them together
  ActOrder order = ActOrder::none;
};

/// Codes and grids of w_OK (f32) for the inputs that `inputs` has seen. A column whose input was
/// always 0 becomes 0. Where the damped Hessian is not positive definite it is damped more (at most
/// with its diagonal's mean), with a warning that names `path`. The same bits for any number of
/// threads.
SolvedMatrix gptq(const float* w_OK, int64_t rows, const Gram& inputs, const QuantSpec& spec,
                  const GptqOptions& options, const std::string& path, const KernelTable& kernels,
                  Stream& stream);

}  // namespace qat
