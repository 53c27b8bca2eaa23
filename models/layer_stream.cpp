#include "models/layer_stream.h"

#include <algorithm>
#include <cstring>

#include "engine/core/error.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

constexpr const char* kHidden = "layer_stream.hidden";

Id layer_on_input(Graph& graph, const ModelConfig& config, const DecoderBuild& build,
                  int64_t layer) {
  Builder b(graph);
  const Id x = b.input(kHidden, {build.tokens(), config.hidden}, build.dtype);
  return decoder_layer(b, config, build, x, int(layer));
}

}  // namespace

LayerStream::LayerStream(const MeasuredModel& model, const std::vector<Batch>& batches,
                         const QuantPlan& plan)
    : model_(model), batches_(batches), build_(build_for(model, batches)) {
  Graph graph;
  Builder b(graph);
  const Id x = decoder_embedding(b, model.config, build_);
  insert_quantizers(graph, plan, {0});
  states_.resize(batches.size());
  run(std::move(graph), {x}, [&](const MeasuringProgram& program, size_t batch) {
    const View view = program.view(x);
    states_[batch].assign(view.data, view.data + view.bytes());
  });
}

void LayerStream::run(Graph graph, const std::vector<Id>& results,
                      const std::function<void(const MeasuringProgram&, size_t batch)>& after) {
  MeasuringProgram program(std::move(graph), results, model_, build_);
  program.run_prologue();
  for (size_t i = 0; i < batches_.size(); ++i) {
    if (const View hidden = model_.store.find(kHidden))
      std::memcpy(hidden.data, states_[i].data(), hidden.bytes());
    program.run(batches_[i]);
    after(program, i);
  }
  model_.store.erase(kHidden);
}

void LayerStream::observe(const QuantPlan& plan, const std::vector<std::string>& paths,
                          const Visit& visit) {
  Graph graph;
  layer_on_input(graph, model_.config, build_, layer_);
  insert_quantizers(graph, plan, {int(layer_)});
  std::vector<Id> results;
  std::vector<std::string> first;
  for (const Node& node : graph.nodes) {
    if (node.op != &kLinear || std::find(paths.begin(), paths.end(), node.path) == paths.end())
      continue;
    if (std::find(results.begin(), results.end(), node.inputs[0]) != results.end()) continue;
    results.push_back(node.inputs[0]);
    first.push_back(node.path);
  }
  if (results.empty()) internal_error("layer {} has none of the linears asked for", layer_);
  run(std::move(graph), results, [&](const MeasuringProgram& program, size_t batch) {
    const int64_t rows = batches_[batch].rows * batches_[batch].sequence;
    for (size_t i = 0; i < results.size(); ++i) visit(first[i], program.view(results[i]), rows);
  });
}

void LayerStream::advance(const QuantPlan& plan) {
  Graph graph;
  const Id y = layer_on_input(graph, model_.config, build_, layer_);
  insert_quantizers(graph, plan, {int(layer_)});
  run(std::move(graph), {y}, [&](const MeasuringProgram& program, size_t batch) {
    const View view = program.view(y);
    std::memcpy(states_[batch].data(), view.data, view.bytes());
  });
  ++layer_;
}

size_t LayerStream::state_bytes(const ModelConfig& config, int64_t sequences, int64_t sequence,
                                DType dtype) {
  return size_t(sequences * sequence * config.hidden) * size_of(dtype);
}

size_t LayerStream::arena_bytes(const ModelConfig& config, const QuantPlan& plan,
                                const DecoderBuild& build, const KernelTable& kernels) {
  Graph graph;
  const Id y = layer_on_input(graph, config, build, 0);
  insert_quantizers(graph, plan, {0});
  eliminate_dead(graph, {y});
  hoist(graph);
  return Program::plan(graph, {y}, kernels).arena_bytes;
}

}  // namespace qat
