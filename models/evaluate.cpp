#include "models/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/core/error.h"

namespace qat {

namespace {

void copy(const View& to, const std::vector<int32_t>& from, int32_t rest) {
  if (!to) return;
  int32_t* out = to.as<int32_t>();
  std::memcpy(out, from.data(), from.size() * sizeof(int32_t));
  for (int64_t i = int64_t(from.size()); i < to.count(); ++i) out[i] = rest;
}

// From the losses of all tokens, window after window.
Perplexity summed(const EvalWindows& windows, const std::vector<double>& token_nll) {
  Perplexity result;
  const int64_t sequence = windows.row_tokens();
  result.position_nll.assign(size_t(sequence), 0.0);
  double sum = 0;
  const double* nll = token_nll.data();
  for (int64_t window = 0; window < windows.windows(); ++window) {
    const Batch batch = windows.rows(window, 1);
    double of_window = 0;
    int64_t scored = 0;
    for (int64_t t = 0; t < sequence; ++t, ++nll)
      if (batch.targets[size_t(t)] >= 0) {
        sum += *nll;
        of_window += *nll;
        if (t + 1 < sequence) result.position_nll[size_t(t + 1)] += *nll;
        ++scored;
      }
    result.tokens += scored;
    result.window_nll.push_back(scored ? of_window / double(scored) : 0.0);
  }
  result.windows = windows.windows();
  result.nll = result.tokens ? sum / double(result.tokens) : 0.0;
  result.perplexity = std::exp(result.nll);
  for (double& mean : result.position_nll) mean /= double(std::max<int64_t>(result.windows, 1));
  return result;
}

}  // namespace

Perplexity evaluate_perplexity(ForwardSpec spec, Store& store, const KernelTable& kernels,
                               Stream& stream, const EvalWindows& windows, int64_t rows,
                               Communicator* ranks) {
  const bool cached = spec.build.cache.has_value();
  // Inputs of other shapes may be left from training; they are filled anew by whoever runs next.
  for (const char* name : {kTokens, kTargets, kPositions, kFirst, kInvTokens}) store.erase(name);
  // A cache holds one sequence.
  spec.build.batch = cached ? 1 : std::min(rows, windows.windows());
  spec.build.sequence = windows.row_tokens();
  if (cached) spec.build.cache = spec.build.sequence;
  if (spec.build.sequence > spec.config.max_positions)
    refuse(
        "a context of {} tokens is longer than the model's max_position_embeddings ({}); ask for "
        "a shorter one",
        spec.build.sequence, spec.config.max_positions);
  spec.groups = group_scales_of(kernels);
  ForwardGraph forward = build_forward_graph(spec);
  Program program =
      Program::compile(std::move(forward.graph), {forward.sums, forward.nll}, store, kernels);
  store.get(kInvTokens).as<float>()[0] = 1.0f;
  if (cached) store.get(kCacheLength).as<int32_t>()[0] = 0;

  const int64_t world = ranks ? ranks->size() : 1, rank = ranks ? ranks->rank() : 0;
  const int64_t first = windows.windows() * rank / world;
  const int64_t last = windows.windows() * (rank + 1) / world;
  std::vector<double> token_nll(size_t(windows.windows() * spec.build.sequence));
  program.run_prologue(stream);
  for (int64_t at = first; at < last; at += spec.build.batch) {
    const Batch batch = windows.rows(at, std::min(spec.build.batch, last - at));
    copy(store.find(kTokens), batch.ids, 0);
    copy(store.find(kTargets), batch.targets, -1);
    copy(store.find(kPositions), batch.positions, 0);
    copy(store.find(kFirst), batch.first, 0);
    program.run_body(stream, {});
    const float* nll = program.view(forward.nll).as<float>();
    std::copy(nll, nll + batch.rows * batch.sequence, token_nll.begin() + at * spec.build.sequence);
  }
  if (ranks) ranks->all_reduce(token_nll);
  const Perplexity result = summed(windows, token_nll);
  for (const char* name : {kTokens, kTargets, kPositions, kFirst, kInvTokens}) store.erase(name);
  return result;
}

}  // namespace qat
