// Perplexity of a model on windows of text.
#pragma once

#include <vector>

#include "engine/data/eval_windows.h"
#include "engine/dist/communicator.h"
#include "engine/runtime/store.h"
#include "models/graphs.h"

namespace qat {

struct Perplexity {
  double nll = 0;         ///< mean over scored tokens, nats
  double perplexity = 0;  ///< exp(nll)
  int64_t tokens = 0;     ///< scored
  int64_t windows = 0;
  std::vector<double> window_nll;    ///< mean over each window's scored tokens
  std::vector<double> position_nll;  ///< mean over the windows, by place in the window; the first
                                     ///< place is not scored and 0
};

/// Runs the model in `spec` (its batch and sequence are set here) over all windows. Windows are
/// taken `rows` at a time; where spec.build.cache is given one at a time, over a KV cache that is
/// stored as the plan says. Parameters of spec.build.prefix must be in the Store. Given several
/// ranks, each runs a part of the windows, and all get the same bits as one rank would.
Perplexity evaluate_perplexity(ForwardSpec spec, Store& store, const KernelTable& kernels,
                               Stream& stream, const EvalWindows& windows, int64_t rows,
                               Communicator* ranks = nullptr);

}  // namespace qat
