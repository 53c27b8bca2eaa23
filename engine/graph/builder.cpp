#include "engine/graph/builder.h"

#include "engine/core/error.h"
#include "engine/graph/op.h"

namespace qat {

Id Builder::named(const std::string& name, Shape shape, DType dtype, Kind kind) {
  const Id found = graph_->find(name);
  if (found == kNone) return graph_->add_value({shape, dtype, kind, name, -1});
  const Value& v = graph_->value(found);
  check(v.shape == shape && v.dtype == dtype && v.kind == kind, "named value",
        name + " was made with another shape, dtype or kind");
  return found;
}

Id Builder::input(const std::string& name, Shape shape, DType dtype) {
  return named(name, shape, dtype, Kind::input);
}
Id Builder::param(const std::string& name, Shape shape, DType dtype) {
  return named(name, shape, dtype, Kind::param);
}
Id Builder::state(const std::string& name, Shape shape, DType dtype) {
  return named(name, shape, dtype, Kind::state);
}

std::vector<Id> Builder::append(const Op& op, std::vector<Id> inputs,
                                const std::vector<Out>& outputs, std::any attributes) {
  Node node;
  node.op = &op;
  node.inputs = std::move(inputs);
  node.attributes = std::move(attributes);
  node.path = place.path;
  node.layer = place.layer;
  node.backward = place.backward;
  const int index = int(graph_->nodes.size());
  for (const Out& out : outputs)
    node.outputs.push_back(
        graph_->add_value({out.shape, out.dtype, Kind::activation, place.path, index}));
  std::vector<Id> ids = node.outputs;
  graph_->nodes.push_back(std::move(node));
  return ids;
}

void Builder::check(bool condition, std::string_view op, std::string_view what) const {
  if (!condition) internal_error("[{}] at {}: {}", op, place.path, what);
}

}  // namespace qat
