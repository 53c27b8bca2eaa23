#include "engine/passes/insert_observers.h"

#include <algorithm>
#include <set>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/graph/builder.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

ObserveInto observed_states(Builder& b, const ObservedInput& input, const ObserveWhat& what) {
  ObserveInto into;
  if (what.statistic == ObserveWhat::Statistic::extremes) {
    into.column_amax_C = b.state(column_amax_name(input.path), {input.width}, DType::f32);
    into.min_max = b.state(min_max_name(input.path), {2}, DType::f32);
    return into;
  }
  const auto range = what.ranges.find(input.path);
  if (range == what.ranges.end())
    internal_error("insert_observers: no histogram range for the input of {}", input.path);
  into.histogram = b.state(histogram_name(input.path), {kHistogramBins}, DType::i64);
  into.histogram_bottom = range->second.bottom;
  into.histogram_top = range->second.top;
  return into;
}

}  // namespace

std::vector<ObservedInput> insert_observers(Graph& graph, const std::vector<std::string>& paths,
                                            const ObserveWhat& what) {
  std::set<std::string> wanted(paths.begin(), paths.end());
  const size_t linears = wanted.size();
  std::vector<ObservedInput> observed;
  std::map<Id, size_t> index_of;  // by observed value
  std::vector<Node> old = std::move(graph.nodes);
  graph.nodes.clear();
  Builder b(graph);
  for (Node& node : old) {
    if (node.op == &kLinear && wanted.erase(node.path)) {
      const Id x = node.inputs[0];
      const auto [at, fresh] = index_of.emplace(x, observed.size());
      if (fresh) {
        observed.push_back({node.path, {}, graph.value(x).shape.cols()});
        b.place = {node.path, node.layer, node.backward};
        observe(b, x, observed_states(b, observed.back(), what));
      }
      observed[at->second].linears.push_back(node.path);
    }
    graph.nodes.push_back(std::move(node));
  }
  if (!wanted.empty())
    internal_error("insert_observers: the graph has no linear {}", *wanted.begin());
  graph.refresh_producers();
  log::debug("insert_observers: {} inputs of {} linears", observed.size(), linears);
  return observed;
}

}  // namespace qat
