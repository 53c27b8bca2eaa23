#include "models/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/core/error.h"

namespace qat {
namespace {

constexpr int64_t kTokensAtOnce = 64;

void copy(const View& to, const std::vector<int32_t>& from) {
  if (to) std::memcpy(to.as<int32_t>(), from.data(), from.size() * sizeof(int32_t));
}

// One model: its compiled program up to the last hidden states, and its head as f32.
class Runner {
 public:
  Runner(const ComparedModel& model, const KernelTable& kernels, Stream& stream, const Batch& shape)
      : store_(model.store), kernels_(kernels), stream_(stream), vocab_(model.config.vocab) {
    for (const char* name : {kTokens, kTargets, kPositions, kFirst}) store_.erase(name);
    ForwardSpec spec;
    spec.config = model.config;
    spec.plan = model.plan;
    spec.fuse = Switch::on;
    spec.build.dtype = DType::f32;
    spec.build.weight_dtype = model.weight_dtype;
    spec.build.batch = shape.rows;
    spec.build.sequence = shape.sequence;
    spec.output = ForwardSpec::Output::hidden;
    ForwardGraph forward = build_forward_graph(spec);
    hidden_ = forward.hidden;
    program_ = Program::compile(std::move(forward.graph), {hidden_}, store_, kernels);
    program_.run_prologue(stream_);
    head_ = store_.get(model.config.tied_head ? "model.embed_tokens.weight" : "lm_head.weight");
    if (head_.dtype != DType::f32) {
      cast_head_.resize(size_t(head_.count()));
      const View as_f32{reinterpret_cast<std::byte*>(cast_head_.data()), head_.shape, DType::f32};
      kernels_.cast.run({head_, as_f32}, stream_);
      head_ = as_f32;
    }
    logits_.resize(size_t(kTokensAtOnce * vocab_));
  }
  ~Runner() {
    for (const char* name : {kTokens, kTargets, kPositions, kFirst}) store_.erase(name);
  }

  void forward(const Batch& batch) {
    copy(store_.find(kTokens), batch.ids);
    copy(store_.find(kPositions), batch.positions);
    copy(store_.find(kFirst), batch.first);
    program_.run_body(stream_, {});
  }

  // f32 [count, V] of tokens begin.. of the last batch.
  const float* logits(int64_t begin, int64_t count) {
    const View all = program_.view(hidden_);
    const int64_t width = all.shape.cols();
    const View rows{all.data + size_t(begin * width) * sizeof(float), {count, width}, DType::f32};
    const View out{reinterpret_cast<std::byte*>(logits_.data()), {count, vocab_}, DType::f32};
    kernels_.matmul.run({rows, head_, out, MatmulForm::nt, false}, stream_);
    return logits_.data();
  }

 private:
  Store& store_;
  const KernelTable& kernels_;
  Stream& stream_;
  int64_t vocab_;
  Id hidden_ = kNone;
  Program program_;
  View head_;
  std::vector<float> cast_head_, logits_;
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
  for (const Batch& batch : batches) {
    p.forward(batch);
    q.forward(batch);
    const int64_t tokens = int64_t(batch.ids.size());
    for (int64_t begin = 0; begin < tokens; begin += kTokensAtOnce) {
      const int64_t count = std::min(kTokensAtOnce, tokens - begin);
      const float *zp = p.logits(begin, count), *zq = q.logits(begin, count);
      for (int64_t t = 0; t < count; ++t, zp += vocab, zq += vocab) {
        const int32_t target = batch.targets[size_t(begin + t)];
        if (target < 0) continue;
        const Row a = row_of(zp, vocab), b = row_of(zq, vocab);
        for (int64_t v = 0; v < vocab; ++v) {
          const double log_p = double(zp[v]) - a.log_sum;
          kl += std::exp(log_p) * (log_p - (double(zq[v]) - b.log_sum));
        }
        nll_p += a.log_sum - double(zp[target]);
        nll_q += b.log_sum - double(zq[target]);
        same += a.likeliest == b.likeliest;
        ++result.tokens;
      }
    }
  }
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
