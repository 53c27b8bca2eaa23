#include "models/generate.h"

#include <algorithm>

#include "engine/core/error.h"
#include "models/token_ids.h"

namespace qat {

namespace {

constexpr int64_t kPiece = 32;

// The two programs have inputs of their own names: one token, and a piece of the prompt.
Program compile(ForwardSpec spec, int64_t tokens, int64_t context, Store& store,
                const KernelTable& kernels, Id& logits) {
  spec.build.batch = 1;
  spec.build.sequence = tokens;
  spec.build.cache = context;
  spec.output = ForwardSpec::Output::logits;
  spec.groups = group_scales_of(kernels);
  ForwardGraph forward = build_forward_graph(spec);
  for (Value& value : forward.graph.values)
    if (value.kind == Kind::input) value.name += fmt::format(".{}", tokens);
  logits = forward.logits;
  return Program::compile(std::move(forward.graph), {logits}, store, kernels);
}

// A cache of another length may be left from a Generator before this one.
Store& without_caches(Store& store, const std::string& prefix) {
  for (const Store::Entry& entry : store.entries())
    if (entry.name.starts_with(prefix + "cache.")) store.erase(entry.name);
  return store;
}

}  // namespace

Generator::Generator(ForwardSpec spec, Store& store, const KernelTable& kernels, Stream& stream,
                     int64_t context)
    : config_(spec.config),
      store_(without_caches(store, spec.build.prefix)),
      stream_(stream),
      piece_(std::min(kPiece, context)),
      context_(context),
      prefill_(compile(spec, piece_, context, store, kernels, prefill_logits_)),
      decode_(compile(spec, 1, context, store, kernels, decode_logits_)) {
  if (config_.sliding_window && context > *config_.sliding_window)
    refuse("a context of {} tokens exceeds the model's sliding window of {}; ask for fewer tokens",
           context, *config_.sliding_window);
  if (context > config_.max_positions)
    refuse("a context of {} tokens exceeds the model's max_position_embeddings ({})", context,
           config_.max_positions);
}

void Generator::run(Program& program, const int32_t* tokens, int64_t count) {
  const std::string suffix = fmt::format(".{}", count);
  int32_t* ids = store_.get(kTokens + suffix).as<int32_t>();
  int32_t* positions = store_.get(kPositions + suffix).as<int32_t>();
  for (int64_t t = 0; t < count; ++t) {
    ids[t] = tokens[t];
    positions[t] = int32_t(length_ + t);
  }
  store_.get(kCacheLength + suffix).as<int32_t>()[0] = int32_t(length_);
  // The programs share one arena: what the prologue made lasts until the other one runs.
  if (prepared_ != &program) program.run_prologue(stream_);
  prepared_ = &program;
  program.run_body(stream_, {});
  length_ += count;
  const View logits = program.view(count == piece_ ? prefill_logits_ : decode_logits_);
  const float* row = logits.as<float>() + (count - 1) * config_.vocab;
  last_.assign(row, row + config_.vocab);
}

void Generator::feed(const std::vector<int32_t>& tokens) {
  size_t at = 0;
  for (; at + size_t(piece_) <= tokens.size() && piece_ > 1; at += size_t(piece_)) {
    if (length_ == int64_t(pieces_.size()))
      pieces_.insert(pieces_.end(), tokens.begin() + int64_t(at),
                     tokens.begin() + int64_t(at) + piece_);
    run(prefill_, tokens.data() + at, piece_);
  }
  for (; at < tokens.size(); ++at) run(decode_, tokens.data() + at, 1);
}

const float* Generator::logits() const {
  return last_.data();
}

std::vector<int32_t> Generator::generate(const std::vector<int32_t>& prompt,
                                         const SamplingOptions& options,
                                         const std::function<Next(int32_t)>& on_token) {
  if (prompt.empty()) refuse("an empty prompt has nothing to continue; give at least one token");
  if (int64_t(prompt.size()) >= context_)
    refuse("the prompt has {} tokens, the context {}; shorten the prompt", prompt.size(), context_);
  check_token_ids(prompt, config_);
  prepared_ = nullptr;
  // The last token is fed in any case: its logits are what generation starts from.
  const int64_t shared =
      std::mismatch(prompt.begin(), prompt.end() - 1, pieces_.begin(), pieces_.end()).first -
      prompt.begin();
  length_ = shared / piece_ * piece_;
  pieces_.resize(size_t(length_));
  feed({prompt.begin() + length_, prompt.end()});
  std::vector<int32_t> tokens, seen = prompt;
  while (int64_t(tokens.size()) < options.max_tokens) {
    const int32_t next = sample(last_, seen, options, tokens.size());
    if (std::count(config_.eos_ids.begin(), config_.eos_ids.end(), next)) break;
    tokens.push_back(next);
    seen.push_back(next);
    if (on_token && on_token(next) == Next::stop) break;
    if (length_ >= context_ || int64_t(tokens.size()) >= options.max_tokens) break;
    feed({next});
  }
  return tokens;
}

}  // namespace qat
