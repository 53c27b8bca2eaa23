#include "engine/runtime/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/log.h"

namespace qat {

namespace {

std::vector<size_t> measure_scratch(const Graph& graph, const KernelTable& kernels) {
  // Views with a made-up address: present, but never touched while measuring.
  static std::byte nowhere;
  std::vector<size_t> bytes(graph.nodes.size());
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    BindContext context(
        node, kernels,
        [&](Id id) {
          return View{&nowhere, graph.value(id).shape, graph.value(id).dtype};
        },
        View{}, BindContext::Pass::measure);
    if (!node.op->bind) internal_error("op {} at {} has no launch", node.op->name, node.path);
    node.op->bind(context);
    bytes[n] = context.scratch_bytes();
  }
  return bytes;
}

Category category_of(const Value& value) {
  switch (value.kind) {
    case Kind::input:
      return Category::inputs;
    case Kind::gradient:
      return Category::gradients;
    default:
      return Category::state;
  }
}

}  // namespace

MemoryPlan Program::plan(const Graph& graph, const std::vector<Id>& results,
                         const KernelTable& kernels) {
  return plan_memory(graph, measure_scratch(graph, kernels), results, Planning::reuse);
}

Program Program::compile(Graph graph, const std::vector<Id>& results, Store& store,
                         const KernelTable& kernels, const CompileOptions& options) {
  Program program;
  program.scratch_ = measure_scratch(graph, kernels);
  program.kernels_ = &kernels;
  program.plan_ = plan_memory(graph, program.scratch_, results, options.planning);
  program.graph_ = std::move(graph);
  program.store_ = &store;
  program.options_ = options;
  const Graph& g = program.graph_;
  program.named_.resize(g.values.size());

  std::vector<bool> used(g.values.size());
  for (const Node& node : g.nodes)
    for (const auto* ids : {&node.inputs, &node.outputs})
      for (Id id : *ids)
        if (id != kNone) used[size_t(id)] = true;
  for (size_t v = 0; v < g.values.size(); ++v) {
    const Value& value = g.values[v];
    if (value.kind == Kind::activation || !used[v]) continue;
    View view = store.find(value.name);
    if (!view && value.kind == Kind::param)
      internal_error("program: parameter {} is not in the store", value.name);
    if (!view) view = store.make(value.name, value.shape, value.dtype, category_of(value));
    if (view.shape != value.shape || view.dtype != value.dtype)
      internal_error("program: {} lies in the store with another shape or dtype", value.name);
    program.named_[v] = view;
  }

  program.bind();
  log::debug("program: {} nodes, arena {:.1f} MiB (live peak {:.1f} MiB)", g.nodes.size(),
             double(program.plan_.arena_bytes) / 1048576,
             double(program.plan_.live_peak_bytes) / 1048576);
  return program;
}

void Program::bind() {
  arena_ = store_->arena(plan_.arena_bytes).data;
  for (auto& launches : launches_) launches.clear();
  for (size_t n = 0; n < graph_.nodes.size(); ++n) {
    const Node& node = graph_.nodes[n];
    const View space{arena_ + plan_.scratch[n], Shape{int64_t(scratch_[n])}, DType::u8};
    BindContext context(
        node, *kernels_, [&](Id id) { return view(id); }, space, BindContext::Pass::bind);
    node.op->bind(context);
    for (Launch& launch : context.take_launches())
      launches_[size_t(node.phase)].push_back({std::move(launch), int(n)});
  }
}

View Program::view(Id id) const {
  const Value& value = graph_.value(id);
  const Id home = plan_.home[size_t(id)];
  if (graph_.value(home).kind != Kind::activation) return named_[size_t(home)];
  return {arena_ + plan_.offset[size_t(home)], value.shape, value.dtype};
}

void Program::run_phase(Phase phase, Stream& stream, const RunState& state) {
  // The arena moves when a larger program is compiled; nothing in it outlives a step.
  if (store_->arena(plan_.arena_bytes).data != arena_) bind();
  for (const Bound& bound : launches_[size_t(phase)]) {
    const auto start = std::chrono::steady_clock::now();
    bound.launch(stream, state);
    if (times_) {
      stream.wait();
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      const std::string name = graph_.nodes[size_t(bound.node)].op->name;
      auto found = std::find_if(times_->begin(), times_->end(),
                                [&](const OpTime& t) { return t.name == name; });
      if (found == times_->end()) found = times_->insert(times_->end(), {name, 0.0, 0});
      found->seconds += seconds;
      ++found->calls;
    }
  }
  stream.wait();
}

std::string Program::first_not_finite(Stream& stream, const RunState& state) {
  for (const Phase phase : {Phase::prologue, Phase::body})
    for (const Bound& bound : launches_[size_t(phase)]) {
      bound.launch(stream, state);
      stream.wait();
      if (std::string found = not_finite_in(bound.node); !found.empty()) return found;
    }
  return "";
}

std::string Program::not_finite_in(int index) const {
  const Node& node = graph_.nodes[size_t(index)];
  for (const Id out : node.outputs) {
    if (out == kNone) continue;
    const View v = view(out);
    for (int64_t i = 0; i < v.count(); ++i) {
      bool finite = true;
      if (v.dtype == DType::f32) finite = std::isfinite(v.as<float>()[i]);
      if (v.dtype == DType::bf16) finite = (v.as<uint16_t>()[i] & 0x7f80) != 0x7f80;
      if (!finite)
        return fmt::format("{} at {} (element {} of {})", node.op->name,
                           node.path.empty() ? "the top" : node.path, i, v.count());
    }
  }
  return "";
}

void Program::run_prologue(Stream& stream) {
  run_phase(Phase::prologue, stream, {});
}
void Program::run_body(Stream& stream, const RunState& state) {
  run_phase(Phase::body, stream, state);
}
void Program::run_epilogue(Stream& stream) {
  run_phase(Phase::epilogue, stream, {});
}
void Program::run(Stream& stream) {
  run_prologue(stream);
  run_body(stream, {});
  run_epilogue(stream);
}

}  // namespace qat
