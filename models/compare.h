// How closely one model computes what another does: KL divergence, agreement of the likeliest
// token, perplexity of both, on windows of text.
#pragma once

#include <string>
#include <vector>

#include "engine/data/batch.h"
#include "engine/runtime/store.h"
#include "models/graphs.h"

namespace qat {

struct Agreement {
  double kl = 0;              ///< mean of KL(reference || other) over the scored tokens, nats
  double same_likeliest = 0;  ///< share of tokens where both find the same one likeliest
  double reference_perplexity = 0, perplexity = 0;
  int64_t tokens = 0;
  /// Of each batch: means over its tokens.
  std::vector<double> batch_kl, batch_same;
  std::vector<double> position_kl;  ///< mean over the batches, by place in the window
};

struct ComparedModel {
  const ModelConfig& config;
  const QuantPlan& plan;
  Store& store;  ///< with its rope table
  DType weight_dtype = DType::f32;
  const AdapterPlan* adapters = nullptr;  ///< none, if null
};

/// Runs both in fp32 over the batches, which all have one shape. The two need Stores of their own.
/// Logits exist for one batch at a time, so batches should be small: a window of text each.
Agreement compare_models(const ComparedModel& reference, const ComparedModel& other,
                         const KernelTable& kernels, Stream& stream,
                         const std::vector<Batch>& batches);

/// Windows of `window` tokens of a text, as EvalWindows cuts them, one batch each: at most
/// `most`. Empty when the text does not fill one.
std::vector<Batch> windows_of(const std::vector<int32_t>& ids, int64_t window, int64_t most);

}  // namespace qat
