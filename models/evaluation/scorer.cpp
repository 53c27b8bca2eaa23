#include "models/evaluation/scorer.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>

#include "engine/core/error.h"
#include "models/token_ids.h"

namespace qat {
namespace {

// Tokens of a batch, padding included; scored ones, whose logits exist at once.
constexpr int64_t kBatchTokens = 2048, kLogitBytes = int64_t(128) << 20;
// Lengths are rounded up to multiples, so that few programs are compiled.
constexpr int64_t kShortStep = 16, kLongStep = 128, kLongFrom = 512;
constexpr int64_t kFewestScored = 32;

constexpr const char* kInputs[] = {kTokens, kPositions, kFirst, kLogitRows};

int64_t up_to_multiple(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

// What Python's str.rstrip takes away, of ASCII.
size_t stripped_size(const std::string& text) {
  size_t size = text.size();
  while (size > 0) {
    const unsigned char c = static_cast<unsigned char>(text[size - 1]);
    if (!std::isspace(c) && !(c >= 0x1C && c <= 0x1F)) break;
    --size;
  }
  return size;
}

// The harness adds the beginning of text that the tokenizer adds, unless the text has it already.
std::vector<int32_t> encoded(const Tokenizer& tokenizer, const std::string& text) {
  if (tokenizer.bos_id() >= 0) {
    const std::string bos = tokenizer.decode({tokenizer.bos_id()}, false);
    if (!bos.empty() && text.starts_with(bos)) return tokenizer.encode(text);
  }
  return tokenizer.encode_with_special(text);
}

}  // namespace

Continuation encode_pair(const Tokenizer& tokenizer, const std::string& context,
                         const std::string& continuation) {
  if (context.empty() || continuation.empty())
    refuse("a context and a continuation need a text each, got \"{}\" and \"{}\"", context,
           continuation);
  const size_t kept = stripped_size(context);
  const std::string before = context.substr(0, kept);
  const std::vector<int32_t> start = encoded(tokenizer, before);
  Continuation result{encoded(tokenizer, before + context.substr(kept) + continuation), 0};
  result.scored = int64_t(result.ids.size()) - int64_t(start.size());
  if (start.empty() || result.scored <= 0)
    refuse("\"{}\" adds no token to \"{}\"", continuation, context);
  return result;
}

int64_t longest_context(const ModelConfig& config) {
  return std::min(config.max_positions, config.sliding_window.value_or(config.max_positions));
}

Scorer::Scorer(ForwardSpec spec, Store& store, const KernelTable& kernels, Stream& stream)
    : spec_(std::move(spec)), store_(store), kernels_(kernels), stream_(stream) {
  spec_.output = ForwardSpec::Output::logits;
  spec_.groups = group_scales_of(kernels);
  for (const auto& [path, quant] : spec_.plan.linears)
    if (quant.activation && quant.activation->per == Per::tensor && !quant.static_activation)
      alone_ = true;
}

Scorer::~Scorer() {
  forget_inputs();
}

void Scorer::forget_inputs() {
  for (const char* name : kInputs) store_.erase(name);
}

// The last token is only predicted, never read.
int64_t Scorer::inputs_of(const Continuation& request) const {
  return std::min(int64_t(request.ids.size()) - 1, longest_context(spec_.config));
}

int64_t Scorer::padded(int64_t length) const {
  if (alone_) return length;
  return std::min(up_to_multiple(length, length <= kLongFrom ? kShortStep : kLongStep),
                  longest_context(spec_.config));
}

std::vector<std::vector<size_t>> Scorer::batches(std::span<const Continuation> requests) const {
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return inputs_of(requests[a]) > inputs_of(requests[b]);
  });
  const int64_t most_scored =
      std::max<int64_t>(kLogitBytes / int64_t(sizeof(float)) / spec_.config.vocab, 1);
  std::vector<std::vector<size_t>> batches;
  int64_t length = 0, scored = 0;
  for (const size_t i : order) {
    const int64_t wanted = padded(inputs_of(requests[i]));
    const bool fits = !batches.empty() && wanted == length && !alone_ &&
                      int64_t(batches.back().size() + 1) * length <= kBatchTokens &&
                      scored + requests[i].scored <= most_scored;
    if (!fits) {
      batches.emplace_back();
      length = wanted;
      scored = 0;
    }
    batches.back().push_back(i);
    scored += requests[i].scored;
  }
  return batches;
}

Scorer::Shape Scorer::shape_of(std::span<const Continuation> requests,
                               const std::vector<size_t>& batch) const {
  Shape shape{int64_t(batch.size()), padded(inputs_of(requests[batch[0]])), 0};
  for (const size_t i : batch) shape.scored += std::min(requests[i].scored, inputs_of(requests[i]));
  // A power of two, for the same reason.
  int64_t room = kFewestScored;
  while (room < shape.scored) room *= 2;
  shape.scored = room;
  return shape;
}

void Scorer::compile(const Shape& shape) {
  if (shape == compiled_) return;
  forget_inputs();
  spec_.build.batch = shape.rows;
  spec_.build.sequence = shape.length;
  spec_.logit_rows = shape.scored;
  ForwardGraph forward = build_forward_graph(spec_);
  logits_ = forward.logits;
  program_ = Program::compile(std::move(forward.graph), {logits_}, store_, kernels_);
  program_.run_prologue(stream_);
  compiled_ = shape;
}

std::vector<Likelihood> Scorer::score(std::span<const Continuation> requests,
                                      const std::vector<size_t>& batch) {
  compile(shape_of(requests, batch));
  const int64_t length = compiled_.length, vocab = spec_.config.vocab;
  int32_t* tokens = store_.get(kTokens).as<int32_t>();
  int32_t* positions = store_.get(kPositions).as<int32_t>();
  int32_t* first = store_.get(kFirst).as<int32_t>();
  int32_t* rows = store_.get(kLogitRows).as<int32_t>();
  std::fill_n(tokens, compiled_.rows * length, 0);
  std::fill_n(first, compiled_.rows * length, 0);
  std::fill_n(rows, compiled_.scored, 0);
  std::vector<int32_t> targets;
  for (size_t r = 0; r < batch.size(); ++r) {
    const Continuation& request = requests[batch[r]];
    const int64_t count = inputs_of(request), at = int64_t(r) * length;
    check_token_ids(request.ids, spec_.config);
    const int32_t* ids = request.ids.data() + (int64_t(request.ids.size()) - 1 - count);
    std::copy_n(ids, count, tokens + at);
    for (int64_t t = 0; t < length; ++t) positions[at + t] = int32_t(t);
    for (int64_t t = count - std::min(request.scored, count); t < count; ++t) {
      rows[targets.size()] = int32_t(at + t);
      targets.push_back(ids[t + 1]);
    }
  }
  program_.run_body(stream_, {});

  const float* logits = program_.view(logits_).as<float>();
  std::vector<double> log_p(targets.size());
  std::vector<uint8_t> likeliest(targets.size());
  const int64_t scored = int64_t(targets.size());
#pragma omp parallel for schedule(static) num_threads(stream_.threads())
  for (int64_t i = 0; i < scored; ++i) {
    const float* row = logits + i * vocab;
    const float* peak = std::max_element(row, row + vocab);
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += double(std::exp(row[v] - *peak));
    log_p[size_t(i)] = double(row[targets[size_t(i)]]) - double(*peak) - std::log(sum);
    likeliest[size_t(i)] = peak - row == targets[size_t(i)];
  }
  std::vector<Likelihood> results;
  size_t at = 0;
  for (const size_t i : batch) {
    Likelihood likelihood{0.0, true};
    const int64_t count = std::min(requests[i].scored, inputs_of(requests[i]));
    for (int64_t t = 0; t < count; ++t, ++at) {
      likelihood.log_likelihood += log_p[at];
      likelihood.greedy = likelihood.greedy && likeliest[at];
    }
    results.push_back(likelihood);
  }
  return results;
}

}  // namespace qat
