// The observing kernel's signed histogram and the pass that inserts observers.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "engine/core/error.h"
#include "engine/ops/ops.h"
#include "engine/passes/insert_observers.h"
#include "engine/passes/passes.h"
#include "engine/ptq/observations.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

constexpr const char* kLlama = "tests/golden/llama";

TEST(ObserveKernelTest, SignedHistogramCountsBothSides) {
  std::vector<float> x = {-2.0f, -1.99f, -0.1f, 0.1f, 1.0f, 3.99f, 4.0f, 9.0f, -9.0f, NAN};
  for (const size_t bins : {size_t(6), size_t(6000)}) {
    std::vector<int64_t> counts(bins, 0);
    Observe args{};
    args.x_TC = View{reinterpret_cast<std::byte*>(x.data()), {1, 10}, DType::f32};
    args.histogram = View{reinterpret_cast<std::byte*>(counts.data()), {int64_t(bins)}, DType::i64};
    args.histogram_bottom = -2.0f;
    args.histogram_top = 4.0f;
    Stream stream(2);
    cpu_kernels().observe.run(args, stream);
    std::vector<int64_t> sixths(6, 0);
    for (size_t i = 0; i < bins; ++i) sixths[i / (bins / 6)] += counts[i];
    EXPECT_EQ(sixths, (std::vector<int64_t>{3, 1, 1, 1, 0, 3})) << bins;
  }
}

struct Observed {
  std::vector<ObservedInput> inputs;
  std::map<std::string, std::vector<float>> values;  ///< by linear: what it read
  std::vector<float> hidden;
};

void append(const View& view, std::vector<float>& to) {
  to.insert(to.end(), view.as<float>(), view.as<float>() + view.count());
}

// Runs with observers, and gives what the linears really read.
Observed run_observed(TinyModel& tiny, const std::vector<Batch>& batches, const ObserveWhat& what) {
  const MeasuredModel model = tiny.measured();
  const DecoderBuild build = build_for(model, batches);
  Observed result;
  Graph graph;
  Builder b(graph);
  const Id hidden = decoder_hidden(b, tiny.config, build);
  result.inputs = insert_observers(graph, decoder_linears(tiny.config), what);
  std::map<std::string, Id> reads;
  std::vector<Id> keep = {hidden};
  for (const Node& node : graph.nodes)
    if (node.op == &kLinear) {
      reads[node.path] = node.inputs[0];
      keep.push_back(node.inputs[0]);
    }
  reset_observations(result.inputs, what.statistic, tiny.store);
  MeasuringProgram program(std::move(graph), keep, model, build);
  program.run_prologue();
  for (const Batch& batch : batches) {
    program.run(batch);
    for (const auto& [path, id] : reads) append(program.view(id), result.values[path]);
    append(program.view(hidden), result.hidden);
  }
  return result;
}

TEST(InsertObserversTest, SharedInputsAreObservedOnce) {
  TinyModel tiny(kLlama);
  Graph graph;
  Builder b(graph);
  DecoderBuild build;
  build.sequence = 8;
  decoder_hidden(b, tiny.config, build);
  const auto inputs = insert_observers(graph, decoder_linears(tiny.config), {});
  ASSERT_EQ(inputs.size(), size_t(4 * tiny.config.layers));
  EXPECT_EQ(inputs[0].path, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(inputs[0].linears.size(), 3u);
  EXPECT_EQ(inputs[1].linears, std::vector<std::string>{"model.layers.0.self_attn.o_proj"});
  EXPECT_EQ(inputs[2].linears.size(), 2u);
  EXPECT_EQ(inputs[3].width, tiny.config.ffn);

  const auto observers = [&] {
    return std::count_if(graph.nodes.begin(), graph.nodes.end(),
                         [](const Node& node) { return node.op == &kObserve; });
  };
  EXPECT_EQ(observers(), 4 * tiny.config.layers);
  // Nothing reads what they write: they stay all the same, and in the body.
  eliminate_dead(graph, {});
  hoist(graph);
  verify(graph);
  EXPECT_EQ(observers(), 4 * tiny.config.layers);
  for (const Node& node : graph.nodes)
    if (node.op == &kObserve) {
      EXPECT_EQ(node.phase, Phase::body);
    }
}

TEST(InsertObserversTest, StatisticsAreThoseOfTheInputs) {
  TinyModel tiny(kLlama);
  const auto batches = tiny.batches(3, 2, 24);
  const Observed seen = run_observed(tiny, batches, {});
  ObserveWhat histograms{.statistic = ObserveWhat::Statistic::histogram};
  for (const ObservedInput& input : seen.inputs) {
    const std::vector<float>& x = seen.values.at(input.path);
    const Extent extent = seen_extent(input, tiny.store);
    EXPECT_EQ(extent.low, *std::min_element(x.begin(), x.end()));
    EXPECT_EQ(extent.high, *std::max_element(x.begin(), x.end()));
    std::vector<float> amax(size_t(input.width), 0.0f);
    for (size_t i = 0; i < x.size(); ++i)
      amax[i % amax.size()] = std::max(amax[i % amax.size()], std::abs(x[i]));
    EXPECT_EQ(seen_column_amax(input, tiny.store), amax);
    histograms.ranges[input.path] = {-1.0f, 1.5f};
  }
  const Observed again = run_observed(tiny, batches, histograms);
  EXPECT_EQ(again.hidden, seen.hidden);
  for (const ObservedInput& input : again.inputs) {
    const Histogram histogram = seen_histogram(input, {-1.0f, 1.5f}, tiny.store);
    const std::vector<float>& x = seen.values.at(input.path);
    EXPECT_EQ(histogram.total(), int64_t(x.size()));
    const int64_t below = std::count_if(x.begin(), x.end(), [](float v) { return v < 0.25f; });
    int64_t counted = 0;
    for (size_t i = 0; i < histogram.counts.size() / 2; ++i) counted += histogram.counts[i];
    EXPECT_NEAR(double(counted), double(below), 3.0);
  }
  erase_observations(again.inputs, tiny.store);
  for (const Store::Entry& entry : tiny.store.entries())
    EXPECT_FALSE(entry.name.starts_with("observe.")) << entry.name;
}

TEST(InsertObserversTest, ObservingChangesNoBit) {
  TinyModel tiny(kLlama);
  const auto batches = tiny.batches(1, 2, 24);
  const Observed seen = run_observed(tiny, batches, {});
  const MeasuredModel model = tiny.measured();
  const DecoderBuild build = build_for(model, batches);
  Graph graph;
  Builder b(graph);
  const Id hidden = decoder_hidden(b, tiny.config, build);
  MeasuringProgram program(std::move(graph), {hidden}, model, build);
  program.run_prologue();
  program.run(batches[0]);
  std::vector<float> without;
  append(program.view(hidden), without);
  EXPECT_EQ(without, seen.hidden);
}

TEST(InsertObserversTest, UnknownLinearsAndMissingRangesAreDefects) {
  TinyModel tiny(kLlama);
  Graph graph;
  Builder b(graph);
  DecoderBuild build;
  build.sequence = 8;
  decoder_hidden(b, tiny.config, build);
  Graph copy = graph;
  EXPECT_THROW(insert_observers(graph, {"model.layers.9.mlp.up_proj"}, {}), Error);
  EXPECT_THROW(insert_observers(copy, {"model.layers.0.mlp.up_proj"},
                                {.statistic = ObserveWhat::Statistic::histogram}),
               Error);
}

TEST(MeasuringProgramTest, PaddingIsFilledWithText) {
  TinyModel tiny(kLlama);
  // Two rows of 16 tokens, the second padded after its 8th.
  Batch padded = tiny.batches(1, 2, 16)[0];
  for (int32_t& id : padded.ids) id = std::max(id, 1);
  padded.targets[23] = -1;
  for (size_t t = 24; t < 32; ++t) {
    padded.ids[t] = 0;
    padded.targets[t] = -1;
    padded.positions[t] = 0;
    padded.first[t] = int32_t(t) - 16;
  }
  const Observed seen = run_observed(tiny, {padded}, {});
  // The first 8 tokens of the row stand in for it: they attend as if nothing came before.
  for (const auto& [path, x] : seen.values) {
    const size_t width = x.size() / 32;
    for (size_t i = 0; i < 8 * width; ++i)
      ASSERT_NEAR(x[24 * width + i], x[16 * width + i], 1e-5) << path;
  }
}

}  // namespace
}  // namespace qat
