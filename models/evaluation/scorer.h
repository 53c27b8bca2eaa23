// Log-likelihoods of continuations: how likely a model finds a text after another, token by token.
// Requests of similar length share a batch, and the head is computed for scored tokens only.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/runtime/store.h"
#include "models/graphs.h"
#include "models/tokenizer/tokenizer.h"

namespace qat {

/// A text of which the last `scored` tokens count.
struct Continuation {
  std::vector<int32_t> ids;
  int64_t scored = 0;
};

struct Likelihood {
  double log_likelihood = 0;  ///< sum over the scored tokens, nats
  bool greedy = false;        ///< each scored token is the likeliest one
};

/// Tokens of context + continuation as lm-evaluation-harness cuts them: white space at the end of
/// the context goes to the continuation, the whole is encoded at once, and what follows the
/// context's own number of tokens is the continuation.
Continuation encode_pair(const Tokenizer& tokenizer, const std::string& context,
                         const std::string& continuation);

/// Tokens a model can look at.
int64_t longest_context(const ModelConfig& config);

class Scorer {
 public:
  /// Requests longer than the model's context lose tokens at their start.
  Scorer(ForwardSpec spec, Store& store, const KernelTable& kernels, Stream& stream);
  ~Scorer();
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;

  /// Numbers of requests that are computed together, the longest first. Depends on the requests
  /// alone, so that a run that goes on computes the very batches it would have.
  std::vector<std::vector<size_t>> batches(std::span<const Continuation> requests) const;
  /// One of those batches, in its order.
  std::vector<Likelihood> score(std::span<const Continuation> requests,
                                const std::vector<size_t>& batch);

 private:
  struct Shape {
    int64_t rows, length, scored;
    friend bool operator==(const Shape&, const Shape&) = default;
  };
  int64_t padded(int64_t length) const;
  Shape shape_of(std::span<const Continuation> requests, const std::vector<size_t>& batch) const;
  int64_t inputs_of(const Continuation& request) const;
  void compile(const Shape& shape);
  void forget_inputs();

  ForwardSpec spec_;
  Store& store_;
  const KernelTable& kernels_;
  Stream& stream_;
  bool alone_ = false;  ///< a scale is shared by all tokens of a run: one request at a time
  Shape compiled_{};
  Id logits_ = kNone;
  Program program_;
};

}  // namespace qat
