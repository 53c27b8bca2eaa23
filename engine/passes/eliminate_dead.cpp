#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/passes/passes.h"

namespace qat {

void eliminate_dead(Graph& graph, const std::vector<Id>& keep) {
  std::vector<bool> needed(graph.values.size());
  for (Id id : keep) needed[size_t(id)] = true;
  std::vector<bool> alive(graph.nodes.size());
  for (size_t n = graph.nodes.size(); n-- > 0;) {
    const Node& node = graph.nodes[n];
    bool any = node.op->reads_run_state;
    for (Id out : node.outputs)
      any =
          any || (out != kNone && (needed[size_t(out)] || graph.value(out).kind == Kind::gradient ||
                                   graph.value(out).kind == Kind::state));
    if (!any) continue;
    alive[n] = true;
    for (Id in : node.inputs)
      if (in != kNone) needed[size_t(in)] = true;
  }
  std::vector<Node> kept;
  for (size_t n = 0; n < graph.nodes.size(); ++n)
    if (alive[n]) kept.push_back(std::move(graph.nodes[n]));
  log::debug("eliminate_dead: {} of {} nodes removed", graph.nodes.size() - kept.size(),
             graph.nodes.size());
  graph.nodes = std::move(kept);
  graph.refresh_producers();
}

}  // namespace qat
