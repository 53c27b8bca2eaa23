#include "engine/core/log.h"
#include "engine/graph/builder.h"
#include "engine/graph/op.h"
#include "engine/ops/ops.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

bool fits_int8(const QuantSpec& activation, const QuantSpec& weight, GroupScales groups) {
  if (activation.form == Form::e4m3 || weight.form == Form::e4m3) return false;
  if (!activation.centered() || !weight.centered()) return false;
  if (activation.bits > 8 || weight.bits > 8) return false;
  if (activation.per == Per::row && weight.per == Per::row) return true;
  if (groups == GroupScales::float_product || weight.per != Per::group) return false;
  const bool alike = activation.per == Per::group && activation.group == weight.group;
  return (activation.per == Per::row || alike) && weight.group % 4 == 0;
}

bool has_listed_groups(const Node& dequantize) {
  return dequantize.inputs.size() > 3 && dequantize.inputs[3] != kNone;
}

}  // namespace

GroupScales group_scales_of(const KernelTable& kernels) {
  return kernels.matmul_int8_groups ? GroupScales::integer_product : GroupScales::float_product;
}

int fuse(Graph& graph, GroupScales groups) {
  graph.refresh_producers();
  std::vector<Node> old = std::move(graph.nodes);
  graph.nodes.clear();
  std::vector<int> maker(graph.values.size(), -1);
  for (size_t n = 0; n < old.size(); ++n)
    for (Id out : old[n].outputs)
      if (out != kNone) maker[size_t(out)] = int(n);
  auto made_by = [&](Id id, const Op& op) -> const Node* {
    const int n = maker[size_t(id)];
    return n >= 0 && old[size_t(n)].op == &op ? &old[size_t(n)] : nullptr;
  };
  auto fake_quant_of = [&](Id id) { return made_by(id, kFakeQuant); };
  // A weight is fake-quantized, or came as codes.
  auto weight_of = [&](Id id) {
    if (const Node* made = fake_quant_of(id)) return made;
    const Node* made = made_by(id, kDequantize);
    return made && !has_listed_groups(*made) ? made : nullptr;
  };

  // First which pairs fuse, so that a fake_quant turns into quantize + dequantize where it stands.
  std::vector<bool> split(old.size());
  int candidates = 0, fused = 0;
  std::vector<bool> fuses(old.size());
  for (size_t n = 0; n < old.size(); ++n) {
    if (old[n].op != &kLinear) continue;
    const Node *x = fake_quant_of(old[n].inputs[0]), *w = weight_of(old[n].inputs[1]);
    if (!x || !w) continue;
    ++candidates;
    if (!fits_int8(x->attribute<FakeQuantAttributes>().spec,
                   w->attribute<FakeQuantAttributes>().spec, groups))
      continue;
    fuses[n] = true;
    split[size_t(maker[size_t(old[n].inputs[0])])] = true;
    if (w->op == &kFakeQuant) split[size_t(maker[size_t(old[n].inputs[1])])] = true;
    ++fused;
  }

  Builder b(graph);
  std::vector<Quantized> codes_of(graph.values.size(), {kNone, kNone, kNone});
  for (size_t n = 0; n < old.size(); ++n) {
    Node& node = old[n];
    b.place = {node.path, node.layer, node.backward};
    if (split[n]) {
      // quantize keeps the fake_quant's scale output; dequantize keeps its value.
      const auto& attributes = node.attribute<FakeQuantAttributes>();
      const Id y = node.outputs[0];
      Node quantize_node = node;
      quantize_node.op = &kQuantize;
      Value code = graph.value(y);
      code.dtype = DType::i8;
      quantize_node.outputs[0] = graph.add_value(code);
      const Id scale = node.inputs[1] != kNone ? node.inputs[1] : node.outputs[1];
      codes_of[size_t(y)] = {quantize_node.outputs[0], scale, kNone};
      Node dequantize_node = node;
      dequantize_node.op = &kDequantize;
      dequantize_node.inputs = {quantize_node.outputs[0], scale, kNone};
      dequantize_node.outputs = {y};
      dequantize_node.attributes = attributes;
      graph.nodes.push_back(std::move(quantize_node));
      graph.nodes.push_back(std::move(dequantize_node));
    } else if (node.op == &kDequantize) {
      codes_of[size_t(node.outputs[0])] = {node.inputs[0], node.inputs[1], node.inputs[2]};
      graph.nodes.push_back(std::move(node));
    } else if (fuses[n]) {
      const Quantized a = codes_of[size_t(node.inputs[0])], w = codes_of[size_t(node.inputs[1])];
      Node integer = node;
      integer.op = &kLinearInt8;
      integer.inputs = {a.codes, a.scale, w.codes, w.scale, node.inputs[2]};
      graph.nodes.push_back(std::move(integer));
    } else {
      graph.nodes.push_back(std::move(node));
    }
  }
  graph.refresh_producers();
  if (candidates) log::debug("fuse: fused {} of {} quantized linears", fused, candidates);
  return fused;
}

}  // namespace qat
