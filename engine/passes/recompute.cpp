#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

class Recomputer {
 public:
  Recomputer(Graph& graph, Recompute policy) : graph_(graph), policy_(policy) {}

  int run() {
    graph_.refresh_producers();
    const std::vector<bool> constant = graph_.constant_in_step();
    const std::vector<Node> old = std::move(graph_.nodes);
    graph_.nodes.clear();
    old_ = &old;
    constant_ = constant;
    crossing_ = crossing();
    clone_of_.assign(graph_.values.size(), kNone);
    for (Node node : old) {
      if (node.backward)
        for (Id& in : node.inputs)
          if (in != kNone) in = recomputed(in);
      graph_.nodes.push_back(std::move(node));
    }
    graph_.refresh_producers();
    return cloned_;
  }

 private:
  // Values read outside the decoder layer that made them are what `block` keeps.
  std::vector<bool> crossing() const {
    std::vector<bool> result(graph_.values.size());
    for (const Node& node : *old_) {
      if (node.backward) continue;
      for (Id in : node.inputs)
        if (in != kNone && graph_.value(in).producer >= 0)
          if ((*old_)[size_t(graph_.value(in).producer)].layer != node.layer)
            result[size_t(in)] = true;
    }
    return result;
  }

  bool can_clone(Id id) const {
    const Value& v = graph_.value(id);
    if (v.kind != Kind::activation || v.producer < 0 || constant_[size_t(id)]) return false;
    const Node& maker = (*old_)[size_t(v.producer)];
    if (maker.backward || maker.layer < 0 || maker.op->reads_run_state) return false;
    if (policy_ == Recompute::block) return !crossing_[size_t(id)];
    // Side results (a norm's rstd, scales) are small: keeping them is cheaper than the whole op
    // again.
    return maker.op->cost == Cost::cheap && !crossing_[size_t(id)] && id == maker.outputs[0];
  }

  // The value to read in place of `id` in a backward node: a clone made just before, or `id`
  // itself.
  Id recomputed(Id id) {
    if (size_t(id) >= clone_of_.size() || !can_clone(id)) return id;
    if (clone_of_[size_t(id)] != kNone) return clone_of_[size_t(id)];
    Node clone = (*old_)[size_t(graph_.value(id).producer)];
    clone.backward = true;
    for (Id& in : clone.inputs)
      if (in != kNone) in = recomputed(in);
    for (Id& out : clone.outputs) {
      if (out == kNone) continue;
      const Id fresh = graph_.add_value(graph_.value(out));
      clone_of_[size_t(out)] = fresh;
      out = fresh;
    }
    graph_.nodes.push_back(std::move(clone));
    ++cloned_;
    return clone_of_[size_t(id)];
  }

  Graph& graph_;
  Recompute policy_;
  const std::vector<Node>* old_ = nullptr;
  std::vector<bool> constant_, crossing_;
  std::vector<Id> clone_of_;
  int cloned_ = 0;
};

}  // namespace

void recompute(Graph& graph, Recompute policy) {
  if (policy == Recompute::off) return;
  const int cloned = Recomputer(graph, policy).run();
  log::debug("recompute: {} nodes repeated in the backward pass", cloned);
}

}  // namespace qat
