#include <tuple>

#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

// The nodes built so far are put aside one by one; the builder appends the quantizers between them.
class Inserter {
 public:
  Inserter(Graph& graph, const QuantPlan& plan, const EnabledLayers& enabled)
      : graph_(graph), plan_(plan), enabled_(enabled), builder_(graph) {}

  int run() {
    std::vector<Node> old = std::move(graph_.nodes);
    graph_.nodes.clear();
    producers_.assign(graph_.values.size(), nullptr);
    for (Node& node : old)
      for (Id out : node.outputs) producers_[size_t(out)] = &node;
    for (Node& node : old) {
      if (node.op == &kLinear && enabled_.count(node.layer))
        if (auto found = plan_.linears.find(node.path); found != plan_.linears.end()) {
          builder_.place = {node.path, node.layer, node.backward};
          quantize_inputs(node, found->second);
          ++quantized_;
        }
      graph_.nodes.push_back(node);
    }
    graph_.refresh_producers();
    return quantized_;
  }

 private:
  void quantize_inputs(Node& linear, const LinearQuant& quant) {
    Id &x = linear.inputs[0], &w = linear.inputs[1];
    const DType dtype = graph_.value(x).dtype;
    if (quant.weight && quant.stored_weight) {
      w = stored_weight(linear.path, *quant.weight, graph_.value(w).shape, dtype);
    } else if (quant.weight) {
      // The weight is quantized from its master, not from the cast the model made of it.
      Id master = w;
      const Node* maker = size_t(w) < producers_.size() ? producers_[size_t(w)] : nullptr;
      if (maker && maker->op == &kCast) master = maker->inputs[0];
      w = fake_quant(builder_, master, *quant.weight, dtype);
    }
    if (quant.activation) {
      Id scale = kNone, zero = kNone;
      const QuantSpec& spec = *quant.activation;
      if (quant.static_activation) {
        scale = builder_.state(activation_scale_name(linear.path), {1}, DType::f32);
        if (!spec.symmetric())
          zero = builder_.state(activation_zero_name(linear.path), {1}, DType::f32);
      }
      // Linears that read one value on one grid (q, k, v; gate, up) share its codes.
      for (const Shared& shared : shared_)
        if (shared.x == x && shared.spec == spec && shared.scale == scale) {
          x = shared.quantized;
          return;
        }
      const Id quantized = fake_quant(builder_, x, spec, dtype, scale, zero);
      shared_.push_back({x, spec, scale, quantized});
      x = quantized;
    }
  }

  // Codes that were chosen long ago are never chosen again: the graph starts from them, and the
  // parameter of that name (there need be none) is not read.
  Id stored_weight(const std::string& path, const QuantSpec& spec, const Shape& shape,
                   DType dtype) {
    const Shape scales = scale_shape(shape, spec);
    Quantized stored{builder_.state(codes_name(path), shape, DType::i8),
                     builder_.state(codes_scale_name(path), scales, DType::f32), kNone};
    if (!spec.symmetric()) stored.zero = builder_.state(codes_zero_name(path), scales, DType::f32);
    return dequantize(builder_, stored, spec, dtype);
  }

  struct Shared {
    Id x;
    QuantSpec spec;
    Id scale, quantized;
  };
  Graph& graph_;
  const QuantPlan& plan_;
  const EnabledLayers& enabled_;
  Builder builder_;
  std::vector<const Node*> producers_;
  std::vector<Shared> shared_;
  int quantized_ = 0;
};

}  // namespace

int insert_quantizers(Graph& graph, const QuantPlan& plan, const EnabledLayers& enabled) {
  const int quantized = Inserter(graph, plan, enabled).run();
  log::debug("insert_quantizers: {} of {} planned linears in {} enabled layers", quantized,
             plan.linears.size(), enabled.size());
  return quantized;
}

}  // namespace qat
