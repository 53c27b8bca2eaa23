// Generation with a KV cache: a prompt in pieces, then token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/runtime/store.h"
#include "models/graphs.h"
#include "models/sampling.h"

namespace qat {

/// What the caller of a token wants then.
enum class Next : uint8_t { token, stop };

class Generator {
 public:
  /// Compiles the programs. spec.build's batch, sequence and cache are set here; `context` tokens
  /// fit.
  Generator(ForwardSpec spec, Store& store, const KernelTable& kernels, Stream& stream,
            int64_t context);

  /// The tokens after `prompt`, without it; stops after an end-of-text id (which is not returned),
  /// when the context is full, or when `on_token` (may be empty), which sees each as it comes, says
  /// so. What a prompt begins with as the one before did is not computed again; the numbers are the
  /// same.
  std::vector<int32_t> generate(const std::vector<int32_t>& prompt, const SamplingOptions& options,
                                const std::function<Next(int32_t)>& on_token = {});

  /// f32 logits of the last token fed, V of them.
  const float* logits() const;

 private:
  void feed(const std::vector<int32_t>& tokens);
  void run(Program& program, const int32_t* tokens, int64_t count);

  ModelConfig config_;
  Store& store_;
  Stream& stream_;
  Id prefill_logits_ = kNone, decode_logits_ = kNone;
  int64_t piece_, context_, length_ = 0;
  std::vector<int32_t> pieces_;        ///< tokens in the cache that came in whole pieces
  const Program* prepared_ = nullptr;  ///< whose prologue's results lie in the arena now
  std::vector<float> last_;
  Program prefill_, decode_;
};

}  // namespace qat
