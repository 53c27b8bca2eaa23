#include "engine/passes/insert_adapters.h"

#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

// The nodes built so far are put aside one by one; the builder appends what replaces a linear.
class Inserter {
 public:
  Inserter(Graph& graph, const AdapterPlan& plan, const QuantPlan& quantized,
           const EnabledLayers& enabled, DropoutMode dropout)
      : graph_(graph),
        plan_(plan),
        quantized_(quantized),
        enabled_(enabled),
        dropout_(plan.dropout > 0.0f ? dropout : DropoutMode::off),
        b_(graph) {}

  int run() {
    const std::vector<Node> old = std::move(graph_.nodes);
    graph_.nodes.clear();
    std::vector<const Node*> producers(graph_.values.size());
    for (const Node& node : old)
      for (Id out : node.outputs)
        if (out != kNone) producers[size_t(out)] = &node;
    int adapted = 0;
    for (const Node& node : old) {
      if (node.op != &kLinear || !touches(node.path)) {
        graph_.nodes.push_back(node);
        continue;
      }
      // The matrix itself, not the cast the model made of it.
      const Id w = node.inputs[1];
      const Node* maker = producers[size_t(w)];
      const Id master = maker && maker->op == &kCast ? maker->inputs[0] : w;
      b_.place = {node.path, node.layer, node.backward};
      const bool merged = enabled_.count(node.layer) && quantized_.linears.count(node.path);
      if (merged)
        merge(node, master);
      else
        beside(node, master);
      graph_.nodes.back().outputs[0] = node.outputs[0];
      adapted += int(plan_.linears.count(node.path));
    }
    graph_.refresh_producers();
    return adapted;
  }

 private:
  bool touches(const std::string& path) const {
    return plan_.linears.count(path) || plan_.packed.count(path);
  }

  struct Factors {
    Id a_RK, b_OR;  // f32, b times the scale
    Id magnitude_O = kNone;
  };

  Factors factors(const std::string& path, const LinearAdapter& adapter, Shape w) {
    const auto f32 = [&](const std::string& name, Shape shape) {
      return cast(b_, b_.param(name, shape, plan_.dtype), DType::f32);
    };
    Factors f{f32(lora_a_name(path), {adapter.rank, w[1]}),
              scale(b_, f32(lora_b_name(path), {w[0], adapter.rank}), adapter.scale())};
    if (adapter.kind == AdapterKind::dora)
      f.magnitude_O = b_.param(magnitude_name(path), {w[0]}, DType::f32);
    return f;
  }

  PackedWeight packed(const std::string& path, const PackedSpec& spec, Shape w) {
    const PackedShapes s = packed_shapes(w, spec);
    PackedWeight weight{spec, w, b_.param(packed_codes_name(path), s.codes, s.codes_type),
                        b_.param(absmax_name(path), s.absmax, s.absmax_type)};
    if (!spec.double_quant || spec.type == PackedType::int8) return weight;
    weight.nested_absmax = b_.param(nested_absmax_name(path), s.nested_absmax, DType::f32);
    weight.nested_offset = b_.param(nested_offset_name(path), s.nested_offset, DType::f32);
    return weight;
  }

  // Shapes are taken by value above: each parameter may move the graph's values.
  // The frozen matrix as a value of the graph.
  Id plain(const Node& node, Id master) {
    const auto found = plan_.packed.find(node.path);
    if (found == plan_.packed.end()) return master;
    return unpack(b_, packed(node.path, found->second, graph_.value(master).shape), DType::f32);
  }

  void merge(const Node& node, Id master) {
    const DType dtype = graph_.value(node.inputs[0]).dtype;
    Id w = plain(node, master);
    if (const auto found = plan_.linears.find(node.path); found != plan_.linears.end()) {
      const Factors f = factors(node.path, found->second, graph_.value(master).shape);
      const MergedWeight sum = adapter_merge(b_, w, f.a_RK, f.b_OR);
      if (f.magnitude_O == kNone) graph_.nodes.back().outputs[1] = kNone;  // nobody asks for norms
      w = f.magnitude_O == kNone ? sum.value
                                 : scale_rows(b_, sum.value, divide(b_, f.magnitude_O, sum.norm_O));
    }
    linear(b_, node.inputs[0], cast(b_, w, dtype), node.inputs[2]);
  }

  void beside(const Node& node, Id master) {
    const Id x = node.inputs[0], bias = node.inputs[2];
    const Value input = graph_.value(x);
    const Shape shape = graph_.value(master).shape;
    const auto found = plan_.linears.find(node.path);
    const bool dora = found != plan_.linears.end() && found->second.kind == AdapterKind::dora;
    // DoRA scales the products but not the bias.
    const Id early_bias = dora ? kNone : bias;
    const auto small = plan_.packed.find(node.path);
    const Id y = small != plan_.packed.end()
                     ? linear_packed(b_, x, packed(node.path, small->second, shape), early_bias)
                     : linear(b_, x, cast(b_, master, input.dtype), early_bias);
    if (found == plan_.linears.end()) return;
    const Factors f = factors(node.path, found->second, shape);
    const Id kept =
        dropout_ == DropoutMode::on
            ? dropout(b_, x, b_.input(kDropoutPosition, {2}, DType::i64), plan_.dropout, plan_.seed)
            : x;
    Id low, delta;
    {
      Builder::Scope scope(b_, "lora_A");
      low = linear(b_, kept, cast(b_, f.a_RK, input.dtype));
    }
    {
      Builder::Scope scope(b_, "lora_B");
      delta = linear(b_, low, cast(b_, f.b_OR, input.dtype));
    }
    const Id sum = add(b_, y, delta);
    if (!dora) return;
    const Id norm = adapter_norm(b_, plain(node, master), f.a_RK, f.b_OR);
    scale_columns(b_, sum, divide(b_, f.magnitude_O, norm), bias);
  }

  Graph& graph_;
  const AdapterPlan& plan_;
  const QuantPlan& quantized_;
  const EnabledLayers& enabled_;
  DropoutMode dropout_;
  Builder b_;
};

}  // namespace

int insert_adapters(Graph& graph, const AdapterPlan& plan, const QuantPlan& quantized,
                    const EnabledLayers& enabled, DropoutMode dropout) {
  if (plan.empty()) return 0;
  const int adapted = Inserter(graph, plan, quantized, enabled, dropout).run();
  log::debug("insert_adapters: {} linears, {} packed matrices", adapted, plan.packed.size());
  return adapted;
}

}  // namespace qat
