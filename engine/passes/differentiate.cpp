#include <set>

#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

// Reverse walk. The gradient of an activation is the sum of what its readers give. The gradient of
// a value that depends on parameters alone (a parameter, its cast, its fake-quantized form) is an
// accumulator: its contributions are written into one f32 value over all micro-batches. Such a
// value that is larger than the trained parameters behind it counts as an activation.
class Differentiator : public GradContext {
 public:
  Differentiator(Graph& graph, const std::vector<std::string>& trained)
      : graph_(graph), builder_(graph), trained_(trained.begin(), trained.end()) {}

  std::vector<ParameterGradient> run() {
    constant_ = graph_.constant_in_step();
    find_wanted();
    const size_t forward_nodes = graph_.nodes.size();
    contributions_.resize(graph_.values.size());
    for (size_t n = forward_nodes; n-- > 0;) differentiate_node(int(n));
    std::vector<ParameterGradient> result;
    for (size_t v = 0; v < wanted_.size(); ++v)
      if (graph_.values[v].kind == Kind::param && trained_.count(graph_.values[v].name)) {
        const Id gradient = total(Id(v));
        if (gradient != kNone) result.push_back({graph_.values[v].name, gradient});
      }
    graph_.refresh_producers();
    return result;
  }

  Builder& builder() override { return builder_; }
  const Node& node() const override { return graph_.nodes[size_t(current_)]; }
  Id in(size_t i) const override { return i < node().inputs.size() ? node().inputs[i] : kNone; }
  Id out(size_t i) const override { return i < node().outputs.size() ? node().outputs[i] : kNone; }
  Id output_grad(size_t i) const override { return i < grads_.size() ? grads_[i] : kNone; }
  bool wants(size_t i) const override { return in(i) != kNone && wanted(in(i)); }
  void add(size_t i, Id gradient) override {
    if (wants(i)) contributions_[size_t(in(i))].push_back(gradient);
  }
  Id add_output(Shape shape, DType dtype) override {
    const Id id = graph_.add_value({shape, dtype, Kind::activation, node().path, current_});
    graph_.nodes[size_t(current_)].outputs.push_back(id);
    return id;
  }

 private:
  bool wanted(Id id) const { return size_t(id) < wanted_.size() && wanted_[size_t(id)]; }

  // Wanted: depends on a trained parameter.
  void find_wanted() {
    wanted_.assign(graph_.values.size(), false);
    for (size_t v = 0; v < graph_.values.size(); ++v)
      wanted_[v] = graph_.values[v].kind == Kind::param && trained_.count(graph_.values[v].name);
    for (const Node& node : graph_.nodes)
      for (Id in : node.inputs)
        if (in != kNone && wanted_[size_t(in)] && node.op->differentiate)
          for (Id out : node.outputs)
            if (out != kNone) wanted_[size_t(out)] = true;
  }

  void differentiate_node(int index) {
    current_ = index;
    const Op& op = *node().op;
    if (!op.differentiate) return;
    bool any_input = false;
    for (size_t i = 0; i < node().inputs.size(); ++i) any_input = any_input || wants(i);
    if (!any_input) return;
    const std::vector<Id> outputs = node().outputs;
    builder_.place = {node().path, node().layer, true};
    grads_.clear();
    bool any_grad = &op == &kHeadLoss;
    for (Id out : outputs) {
      grads_.push_back(out == kNone ? kNone : total(out));
      any_grad = any_grad || grads_.back() != kNone;
    }
    if (any_grad) op.differentiate(*this);
  }

  // The gradient of a value, all its readers having been differentiated.
  Id total(Id id) {
    std::vector<Id>& parts = contributions_[size_t(id)];
    if (parts.empty()) return kNone;
    if (constant_[size_t(id)] && !streams(id, parts)) return accumulate(id, parts);
    Id sum = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) sum = sum_of(sum, parts[i]);
    parts = {sum};
    return sum;
  }

  // A matrix merged from low-rank factors is much larger than what is trained of it: its gradient
  // goes on to the factors in each micro-batch, and only theirs are accumulated. So does one that
  // is made by an op that cannot add to what is there.
  bool streams(Id id, const std::vector<Id>& parts) {
    if (graph_.value(id).kind != Kind::activation) return false;
    for (Id part : parts) {
      const Node* maker = writer(part);
      if (maker && !maker->op->accumulates && !reads_accumulator(part)) return true;
    }
    std::set<Id> seen;
    return graph_.value(id).shape.count() > trained_elements(id, seen);
  }

  // Elements of the trained parameters that a constant value depends on.
  int64_t trained_elements(Id id, std::set<Id>& seen) const {
    if (!wanted(id) || !seen.insert(id).second) return 0;
    const Value& v = graph_.value(id);
    if (v.kind == Kind::param) return v.shape.count();
    if (v.kind != Kind::activation) return 0;
    int64_t count = 0;
    for (Id in : graph_.nodes[size_t(v.producer)].inputs)
      if (in != kNone) count += trained_elements(in, seen);
    return count;
  }

  // dx of a norm and the gradient that passes beside it are added by the norm's own backward
  // kernel.
  Id sum_of(Id a, Id other) {
    for (auto [norm, rest] : {std::pair{a, other}, std::pair{other, a}}) {
      Node* maker = writer(norm);
      if (maker && maker->op == &kRmsNormBackward && maker == &graph_.nodes.back() &&
          maker->inputs[4] == kNone && maker->outputs[0] == norm) {
        maker->inputs[4] = rest;
        return norm;
      }
    }
    return qat::add(builder_, a, other);
  }

  Node* writer(Id id) {
    for (size_t n = graph_.nodes.size(); n-- > 0;)
      for (Id out : graph_.nodes[n].outputs)
        if (out == id) return &graph_.nodes[n];
    return nullptr;
  }

  // Lets the contributions of the micro-batches write into one accumulator. What is computed from
  // an accumulator (the clip mask of a fake-quantized weight) is final already and is added at the
  // end.
  Id accumulate(Id id, std::vector<Id>& parts) {
    Id target = kNone;
    std::vector<Id> written, finished;
    for (Id part : parts) {
      if (graph_.value(part).kind == Kind::gradient && target == kNone)
        target = part;
      else if (reads_accumulator(part))
        finished.push_back(part);
      else
        written.push_back(part);
    }
    if (target == kNone && !written.empty()) {
      Value value = graph_.value(id);
      value.kind = Kind::gradient;
      value.dtype = DType::f32;
      value.name = "grad." + root(id) + (finished.empty() ? "" : ".direct");
      target = graph_.add_value(value);
      redirect(written.front(), target, Accumulate::across_runs);
      written.erase(written.begin());
    }
    for (Id part : written) redirect(part, target, Accumulate::always);
    for (Id part : finished) target = target == kNone ? part : qat::add(builder_, target, part);
    parts = {target};
    return target;
  }

  bool reads_accumulator(Id id) {
    const Node* maker = writer(id);
    if (!maker) return false;
    for (Id in : maker->inputs)
      if (in != kNone && graph_.value(in).kind == Kind::gradient) return true;
    return false;
  }

  void redirect(Id part, Id target, Accumulate mode) {
    Node* maker = writer(part);
    if (!maker || !maker->op->accumulates || graph_.value(part).dtype != DType::f32)
      internal_error("differentiate: {} at {} cannot accumulate into {}",
                     maker ? maker->op->name : "?", maker ? maker->path : "?",
                     graph_.value(target).name);
    for (Id& out : maker->outputs)
      if (out == part) out = target;
    maker->accumulate = mode;
  }

  // Name of the parameter that a constant value comes from, with the path where there are several.
  std::string root(Id id) const {
    const Value& v = graph_.value(id);
    if (v.kind == Kind::param) return v.name;
    const Node& maker = graph_.nodes[size_t(v.producer)];
    return root(maker.inputs[0]);
  }

  Graph& graph_;
  Builder builder_;
  std::set<std::string> trained_;
  std::vector<bool> constant_, wanted_;
  std::vector<std::vector<Id>> contributions_;
  std::vector<Id> grads_;
  int current_ = 0;
};

}  // namespace

std::vector<ParameterGradient> differentiate(Graph& graph,
                                             const std::vector<std::string>& trained) {
  const size_t before = graph.nodes.size();
  auto gradients = Differentiator(graph, trained).run();
  log::debug("differentiate: {} forward nodes, {} backward, {} parameter gradients", before,
             graph.nodes.size() - before, gradients.size());
  return gradients;
}

}  // namespace qat
