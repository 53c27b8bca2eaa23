#include <algorithm>

#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/passes/passes.h"

namespace qat {

void hoist(Graph& graph) {
  const std::vector<bool> constant = graph.constant_in_step();
  // Settled: constant in the step, an accumulator, or computed from settled values.
  std::vector<bool> settled = constant;
  for (size_t v = 0; v < graph.values.size(); ++v)
    if (graph.values[v].kind == Kind::gradient) settled[v] = true;
  int before = 0, after = 0;
  for (Node& node : graph.nodes) {
    bool all_constant = true, all_settled = !node.inputs.empty(), reads_gradient = false;
    for (Id in : node.inputs) {
      if (in == kNone) continue;
      all_constant = all_constant && constant[size_t(in)];
      all_settled = all_settled && settled[size_t(in)];
      reads_gradient = reads_gradient || (settled[size_t(in)] && !constant[size_t(in)]);
    }
    if (node.op->reads_run_state) continue;
    bool outputs_constant = true;
    for (Id out : node.outputs)
      outputs_constant = outputs_constant && (out == kNone || constant[size_t(out)]);
    if (all_constant && outputs_constant && !node.inputs.empty()) {
      node.phase = Phase::prologue;
      ++before;
    } else if (all_settled && reads_gradient && node.backward) {
      node.phase = Phase::epilogue;
      for (Id out : node.outputs)
        if (out != kNone) settled[size_t(out)] = true;
      ++after;
    }
  }
  std::stable_sort(graph.nodes.begin(), graph.nodes.end(),
                   [](const Node& a, const Node& b) { return a.phase < b.phase; });
  graph.refresh_producers();
  log::debug("hoist: {} nodes once before a step, {} once after", before, after);
}

}  // namespace qat
