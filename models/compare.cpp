#include "models/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/core/error.h"

namespace qat {
namespace {

void copy(const View& to, const std::vector<int32_t>& from) {
  if (to) std::memcpy(to.as<int32_t>(), from.data(), from.size() * sizeof(int32_t));
}

// One model and its compiled program.
class Runner {
 public:
  Runner(const ComparedModel& model, const KernelTable& kernels, Stream& stream, const Batch& shape)
      : store_(model.store), stream_(stream) {
    for (const char* name : {kTokens, kPositions, kFirst}) store_.erase(name);
    ForwardSpec spec;
    spec.config = model.config;
    spec.plan = model.plan;
    if (model.adapters) spec.adapters = *model.adapters;
    spec.fuse = Switch::on;
    spec.groups = group_scales_of(kernels);
    spec.build.dtype = DType::f32;
    spec.build.weight_dtype = model.weight_dtype;
    spec.build.batch = shape.rows;
    spec.build.sequence = shape.sequence;
    spec.output = ForwardSpec::Output::logits;
    ForwardGraph forward = build_forward_graph(spec);
    logits_ = forward.logits;
    program_ = Program::compile(std::move(forward.graph), {logits_}, store_, kernels);
    program_.run_prologue(stream_);
  }
  ~Runner() {
    for (const char* name : {kTokens, kPositions, kFirst}) store_.erase(name);
  }

  // f32 [T, V].
  const float* logits(const Batch& batch) {
    copy(store_.find(kTokens), batch.ids);
    copy(store_.find(kPositions), batch.positions);
    copy(store_.find(kFirst), batch.first);
    program_.run_body(stream_, {});
    return program_.view(logits_).as<float>();
  }

 private:
  Store& store_;
  Stream& stream_;
  Id logits_ = kNone;
  Program program_;
};

struct Row {
  double log_sum;
  int64_t likeliest;
};
Row row_of(const float* logits, int64_t count) {
  const int64_t likeliest = std::max_element(logits, logits + count) - logits;
  const double peak = double(logits[likeliest]);
  double sum = 0;
  for (int64_t v = 0; v < count; ++v) sum += std::exp(double(logits[v]) - peak);
  return {peak + std::log(sum), likeliest};
}

}  // namespace

Agreement compare_models(const ComparedModel& reference, const ComparedModel& other,
                         const KernelTable& kernels, Stream& stream,
                         const std::vector<Batch>& batches) {
  if (&reference.store == &other.store) internal_error("compare_models: one Store for two models");
  if (batches.empty()) internal_error("compare_models: no text");
  const int64_t vocab = reference.config.vocab;
  Runner p(reference, kernels, stream, batches[0]), q(other, kernels, stream, batches[0]);
  Agreement result;
  double kl = 0, nll_p = 0, nll_q = 0;
  int64_t same = 0;
  std::vector<double> position_count(size_t(batches[0].sequence), 0.0);
  result.position_kl.assign(position_count.size(), 0.0);
  for (const Batch& batch : batches) {
    const float *zp = p.logits(batch), *zq = q.logits(batch);
    const double kl_before = kl;
    const int64_t same_before = same, tokens_before = result.tokens;
    for (size_t t = 0; t < batch.ids.size(); ++t, zp += vocab, zq += vocab) {
      const int32_t target = batch.targets[t];
      if (target < 0) continue;
      const Row a = row_of(zp, vocab), b = row_of(zq, vocab);
      const double kl_of_others = kl;
      for (int64_t v = 0; v < vocab; ++v) {
        const double log_p = double(zp[v]) - a.log_sum;
        kl += std::exp(log_p) * (log_p - (double(zq[v]) - b.log_sum));
      }
      result.position_kl[t % position_count.size()] += kl - kl_of_others;
      ++position_count[t % position_count.size()];
      nll_p += a.log_sum - double(zp[target]);
      nll_q += b.log_sum - double(zq[target]);
      same += a.likeliest == b.likeliest;
      ++result.tokens;
    }
    const double tokens = double(std::max<int64_t>(result.tokens - tokens_before, 1));
    result.batch_kl.push_back((kl - kl_before) / tokens);
    result.batch_same.push_back(double(same - same_before) / tokens);
  }
  for (size_t t = 0; t < position_count.size(); ++t)
    result.position_kl[t] /= std::max(position_count[t], 1.0);
  const double n = double(std::max<int64_t>(result.tokens, 1));
  result.kl = kl / n;
  result.same_likeliest = double(same) / n;
  result.reference_perplexity = std::exp(nll_p / n);
  result.perplexity = std::exp(nll_q / n);
  return result;
}

std::vector<Batch> windows_of(const std::vector<int32_t>& ids, int64_t window, int64_t most) {
  std::vector<Batch> batches;
  for (int64_t at = 0; at + window <= int64_t(ids.size()) && int64_t(batches.size()) < most;
       at += window) {
    Batch batch;
    batch.rows = 1;
    batch.sequence = window;
    batch.ids.assign(ids.begin() + at, ids.begin() + at + window);
    batch.targets.assign(batch.ids.begin() + 1, batch.ids.end());
    batch.targets.push_back(-1);
    for (int64_t t = 0; t < window; ++t) batch.positions.push_back(int32_t(t));
    batch.first.assign(size_t(window), 0);
    batch.valid_targets = window - 1;
    batches.push_back(std::move(batch));
  }
  return batches;
}

}  // namespace qat
