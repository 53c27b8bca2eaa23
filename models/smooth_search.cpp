// Legend: T tokens compared, C columns of the input, O out channels.
#include "models/smooth_search.h"

#include <algorithm>
#include <cstring>

#include "engine/core/error.h"
#include "engine/ops/ops.h"
#include "engine/ptq/smoothing.h"
#include "engine/ptq/values.h"

namespace qat {

namespace {

constexpr const char* kInput = "smooth.input";
constexpr size_t kCaptureBytes = size_t(256) << 20;

std::string weight_name(size_t index) {
  return fmt::format("smooth.weight.{}", index);
}

void append_floats(const View& from, int64_t count, std::vector<float>& to) {
  const size_t begin = to.size();
  to.resize(begin + size_t(count));
  for (int64_t i = 0; i < count; ++i) to[begin + size_t(i)] = value_at(from, i);
}

// Columns of a pair's input.
int64_t width_of(const MeasuredModel& model, const SmoothPair& pair) {
  return linear_shape(model.config, pair.linears[0]).cols();
}

Id input_of(const Graph& graph, const std::string& linear) {
  for (const Node& node : graph.nodes)
    if (node.op == &kLinear && node.path == linear) return node.inputs[0];
  internal_error("the graph has no linear {}", linear);
}

// Inputs [T, C] of the candidates from `begin` to `end`, in f32.
std::vector<std::vector<float>> capture_inputs(const MeasuredModel& model,
                                               const std::vector<Batch>& batches,
                                               const std::vector<SmoothCandidate>& candidates,
                                               size_t begin, size_t end, int64_t tokens) {
  const DecoderBuild build = build_for(model, batches);
  Graph graph;
  Builder b(graph);
  decoder_hidden(b, model.config, build);
  std::vector<Id> ids;
  for (size_t i = begin; i < end; ++i)
    ids.push_back(input_of(graph, candidates[i].pair.linears[0]));
  MeasuringProgram program(std::move(graph), ids, model, build);
  program.run_prologue();
  std::vector<std::vector<float>> inputs(ids.size());
  int64_t left = tokens;
  for (const Batch& batch : batches) {
    if (left == 0) break;
    program.run(batch);
    const int64_t rows = std::min(left, batch.rows * batch.sequence);
    for (size_t i = 0; i < ids.size(); ++i)
      append_floats(program.view(ids[i]), rows * width_of(model, candidates[begin + i].pair),
                    inputs[i]);
    left -= rows;
  }
  return inputs;
}

// The linears of one pair on inputs and weights that the Store holds under the names above.
class PairProgram {
 public:
  PairProgram(const MeasuredModel& model, const SmoothPair& pair, const QuantPlan* plan, int64_t T)
      : model_(model), program_(compile(pair, plan, T)) {}

  void run() { program_.run(model_.stream); }
  /// f32 [T, O] of linear k, valid until another program runs.
  View output(size_t k) const { return program_.view(outputs_[k]); }

 private:
  Program compile(const SmoothPair& pair, const QuantPlan* plan, int64_t T) {
    Graph graph;
    Builder b(graph);
    const Id x = b.input(kInput, {T, width_of(model_, pair)}, DType::f32);
    for (size_t k = 0; k < pair.linears.size(); ++k) {
      const Shape shape = linear_shape(model_.config, pair.linears[k]);
      const Id w = b.input(weight_name(k), shape, DType::f32);
      LinearQuant quant;
      if (plan)
        if (const auto at = plan->linears.find(pair.linears[k]); at != plan->linears.end())
          quant = at->second;
      // A static activation is judged on the grid of these very tokens.
      const Id qx = quant.activation ? fake_quant(b, x, *quant.activation, DType::f32) : x;
      const Id qw = quant.weight ? fake_quant(b, w, *quant.weight, DType::f32) : w;
      outputs_.push_back(linear(b, qx, qw));
    }
    return Program::compile(std::move(graph), outputs_, model_.store, model_.kernels);
  }

  const MeasuredModel& model_;
  std::vector<Id> outputs_;
  Program program_;
};

// Compares alphas on one pair. Its inputs of the Store live as long as it.
class PairSearch {
 public:
  PairSearch(const MeasuredModel& model, const QuantPlan& plan, const SmoothCandidate& candidate,
             const std::vector<float>& input_TC)
      : model_(model), candidate_(candidate), input_TC_(input_TC) {
    const int64_t C = width_of(model, candidate.pair);
    const int64_t T = int64_t(input_TC.size()) / C;
    model.store.make(kInput, {T, C}, DType::f32, Category::inputs);
    for (size_t k = 0; k < candidate.pair.linears.size(); ++k) {
      const View master = model.store.get(candidate.pair.linears[k] + ".weight");
      append_floats(master, master.count(), weights_.emplace_back());
      model.store.make(weight_name(k), master.shape, DType::f32, Category::inputs);
    }
    place(std::vector<float>(size_t(C), 1.0f));
    PairProgram exact(model, candidate.pair, nullptr, T);
    exact.run();
    for (size_t k = 0; k < weights_.size(); ++k)
      append_floats(exact.output(k), exact.output(k).count(), exact_.emplace_back());
    quantized_ = std::make_unique<PairProgram>(model, candidate.pair, &plan, T);
  }
  ~PairSearch() {
    model_.store.erase(kInput);
    for (size_t k = 0; k < candidate_.pair.linears.size(); ++k) model_.store.erase(weight_name(k));
  }
  PairSearch(const PairSearch&) = delete;
  PairSearch& operator=(const PairSearch&) = delete;

  /// Sum over the linears of the mean over tokens of |quantized - exact|^2 / |exact|^2 with these
  /// factors. By token, because the norm behind makes tokens equal again: a few of them are
  /// thousands of times larger than the others and would decide alone.
  double error(const std::vector<float>& factors) {
    place(factors);
    quantized_->run();
    double total = 0.0;
    for (size_t k = 0; k < exact_.size(); ++k) {
      const View output = quantized_->output(k);
      for (int64_t t = 0; t < output.rows(); ++t) {
        const float* got = output.as<float>() + t * output.cols();
        const float* exact = exact_[k].data() + t * output.cols();
        double difference = 0.0, size = 0.0;
        for (int64_t o = 0; o < output.cols(); ++o) {
          const double gap = double(got[o]) - double(exact[o]);
          difference += gap * gap;
          size += double(exact[o]) * double(exact[o]);
        }
        if (size > 0.0) total += difference / size / double(output.rows());
      }
    }
    return total;
  }

 private:
  // Writes x / s and w * s.
  void place(const std::vector<float>& factors) {
    const View x = model_.store.get(kInput);
    std::memcpy(x.data, input_TC_.data(), x.bytes());
    divide_columns(x, factors);
    for (size_t k = 0; k < weights_.size(); ++k) {
      const View w = model_.store.get(weight_name(k));
      std::memcpy(w.data, weights_[k].data(), w.bytes());
      multiply_columns(w, factors);
    }
  }

  const MeasuredModel& model_;
  const SmoothCandidate& candidate_;
  const std::vector<float>& input_TC_;
  std::vector<std::vector<float>> weights_;  ///< of the linears, in f32
  std::vector<std::vector<float>> exact_;    ///< their outputs when nothing is quantized
  std::unique_ptr<PairProgram> quantized_;
};

SmoothedPair search_pair(const MeasuredModel& model, const QuantPlan& plan,
                         const SmoothCandidate& candidate, const std::vector<float>& input_TC) {
  PairSearch search(model, plan, candidate, input_TC);
  SmoothedPair result{.from = candidate.pair.from, .alpha = std::nullopt};
  result.error_before = search.error(std::vector<float>(candidate.input_amax.size(), 1.0f));
  result.error_after = result.error_before;
  for (int tenths = 1; tenths <= 9; ++tenths) {
    const float alpha = float(tenths) / 10.0f;
    const double error =
        search.error(smoothing_factors(candidate.input_amax, candidate.weight_amax, alpha));
    if (error >= result.error_after) continue;
    result.error_after = error;
    result.alpha = alpha;
  }
  return result;
}

}  // namespace

std::vector<SmoothedPair> search_alphas(const MeasuredModel& model, const QuantPlan& plan,
                                        const std::vector<Batch>& batches,
                                        const std::vector<SmoothCandidate>& candidates,
                                        int64_t tokens) {
  const DecoderBuild build = build_for(model, batches);
  const int64_t widest = std::max({model.config.hidden, model.config.ffn, model.config.q_width()});
  const size_t bytes = size_t(build.tokens() * widest) * sizeof(float);
  const size_t at_once = std::max<size_t>(1, kCaptureBytes / bytes);
  std::vector<SmoothedPair> result;
  for (size_t begin = 0; begin < candidates.size(); begin += at_once) {
    const size_t end = std::min(candidates.size(), begin + at_once);
    const auto inputs = capture_inputs(model, batches, candidates, begin, end, tokens);
    for (size_t i = begin; i < end; ++i)
      result.push_back(search_pair(model, plan, candidates[i], inputs[i - begin]));
  }
  return result;
}

}  // namespace qat
