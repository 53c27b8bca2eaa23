// Generation with a KV cache: a prompt in pieces, then token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/runtime/store.h"
#include "models/graphs.h"

namespace qat {

struct SamplingOptions {
  int64_t max_tokens = 64;
  double temperature = 0.0;  ///< 0: the likeliest token
  double top_p = 1.0;        ///< of the most likely tokens that hold this share
  int64_t top_k = 0;         ///< 0: all
  uint64_t seed = 0;
};

class Generator {
 public:
  /// Compiles the programs. spec.build's batch, sequence and cache are set here; `context` tokens
  /// fit.
  Generator(ForwardSpec spec, Store& store, const KernelTable& kernels, Stream& stream,
            int64_t context);

  /// The tokens after `prompt`, without it; stops after an end-of-text id (which is not returned)
  /// or when the context is full. `on_token` (may be empty) sees each as it comes.
  std::vector<int32_t> generate(const std::vector<int32_t>& prompt, const SamplingOptions& options,
                                const std::function<void(int32_t)>& on_token = {});

  /// f32 logits of the last token fed, V of them.
  const float* logits() const;

 private:
  void feed(const std::vector<int32_t>& tokens);
  void run(Program& program, const int32_t* tokens, int64_t count);
  int32_t sample(const SamplingOptions& options, uint64_t index);

  ModelConfig config_;
  Store& store_;
  Stream& stream_;
  Id prefill_logits_ = kNone, decode_logits_ = kNone;
  int64_t piece_, context_, length_ = 0;
  const Program* prepared_ = nullptr;  ///< whose prologue's results lie in the arena now
  std::vector<float> last_;
  Program prefill_, decode_;
};

}  // namespace qat
