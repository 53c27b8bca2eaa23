#include "engine/graph/graph.h"

#include <fmt/format.h>

#include "engine/core/error.h"
#include "engine/graph/op.h"

namespace qat {

Id Graph::add_value(Value value) {
  values.push_back(std::move(value));
  return Id(values.size()) - 1;
}

Id Graph::find(const std::string& name) const {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i].kind != Kind::activation && values[i].name == name) return Id(i);
  return kNone;
}

void Graph::refresh_producers() {
  for (Value& v : values) v.producer = -1;
  for (size_t n = 0; n < nodes.size(); ++n)
    for (Id out : nodes[n].outputs)
      if (out != kNone) value(out).producer = int(n);
}

std::vector<std::vector<int>> Graph::readers() const {
  std::vector<std::vector<int>> result(values.size());
  for (size_t n = 0; n < nodes.size(); ++n)
    for (Id in : nodes[n].inputs)
      if (in != kNone) result[size_t(in)].push_back(int(n));
  return result;
}

std::vector<bool> Graph::constant_in_step() const {
  std::vector<bool> constant(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    constant[i] = values[i].kind == Kind::param || values[i].kind == Kind::state;
  for (const Node& node : nodes) {
    bool all = !node.op->reads_run_state && !node.inputs.empty();
    for (Id in : node.inputs) all = all && (in == kNone || constant[size_t(in)]);
    for (Id out : node.outputs)
      if (out != kNone && value(out).kind == Kind::activation) constant[size_t(out)] = all;
  }
  return constant;
}

namespace {

std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += fmt::format("{}{}", i ? "," : "", shape[i]);
  return text + "]";
}

std::string text_of(const Graph& graph, Id id) {
  if (id == kNone) return "-";
  const Value& v = graph.value(id);
  return fmt::format("%{}{}:{}{}", id, v.kind == Kind::activation ? "" : " " + v.name,
                     name_of(v.dtype), text_of(v.shape));
}

}  // namespace

std::string print(const Graph& graph) {
  std::string text;
  for (const Node& node : graph.nodes) {
    std::string outputs, inputs;
    for (Id id : node.outputs) outputs += (outputs.empty() ? "" : ", ") + text_of(graph, id);
    for (Id id : node.inputs) inputs += (inputs.empty() ? "" : ", ") + text_of(graph, id);
    const char* phase = node.phase == Phase::prologue   ? "prologue "
                        : node.phase == Phase::epilogue ? "epilogue "
                                                        : "";
    text += fmt::format("{} = {}({})  # {}{}{}\n", outputs, node.op->name, inputs, phase,
                        node.backward ? "backward " : "", node.path);
  }
  return text;
}

void verify(const Graph& graph) {
  std::vector<bool> written(graph.values.size());
  for (size_t i = 0; i < graph.values.size(); ++i)
    written[i] = graph.values[i].kind != Kind::activation;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    auto check = [&](Id id) {
      if (id < kNone || id >= Id(graph.values.size()))
        internal_error("graph: node {} {} at {} names value {} of {}", n, node.op->name, node.path,
                       id, graph.values.size());
    };
    for (Id in : node.inputs) {
      check(in);
      if (in != kNone && !written[size_t(in)])
        internal_error("graph: node {} {} at {} reads value %{} before it is written", n,
                       node.op->name, node.path, in);
    }
    for (Id out : node.outputs) {
      check(out);
      if (out == kNone) continue;
      const Kind kind = graph.value(out).kind;
      if (kind == Kind::input || kind == Kind::param)
        internal_error("graph: node {} {} at {} writes {}", n, node.op->name, node.path,
                       graph.value(out).name);
      if (kind == Kind::activation && written[size_t(out)] &&
          node.accumulate != Accumulate::always)
        internal_error("graph: node {} {} at {} writes value %{} a second time", n, node.op->name,
                       node.path, out);
      written[size_t(out)] = true;
    }
  }
}

}  // namespace qat
