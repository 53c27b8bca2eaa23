#include <map>
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
      for (Id out : node.outputs)
        if (out != kNone) producers_[size_t(out)] = &node;
    for (Node& node : old) {
      if (takes_quantizers(node)) {
        builder_.place = {node.path, node.layer, node.backward};
        const auto found = plan_.linears.find(node.path);
        const LinearQuant quant = found == plan_.linears.end() ? LinearQuant{} : found->second;
        if (node.op == &kEmbedding)
          quantize_table(node, quant);
        else
          quantize_inputs(node, quant);
        if (found != plan_.linears.end()) ++quantized_;
      } else if (const QuantSpec* grid = kv_grid(node)) {
        builder_.place = {node.path, node.layer, node.backward};
        if (node.op == &kAttention) {
          quantize_keys_and_values(node, *grid);
        } else {
          const KvCache cache = cache_on(node, *grid);
          node = with_cache(std::move(node), cache);
        }
      }
      graph_.nodes.push_back(node);
    }
    graph_.refresh_producers();
    return quantized_;
  }

 private:
  // Embeddings and head are in no layer; they join with the first one.
  bool takes_quantizers(const Node& node) const {
    if (node.op != &kLinear && node.op != &kHeadLoss && node.op != &kEmbedding) return false;
    return node.layer >= 0 ? enabled_.count(node.layer) > 0 : !enabled_.empty();
  }

  const QuantSpec* kv_grid(const Node& node) const {
    if (node.op != &kAttention && node.op != &kAttentionCached) return nullptr;
    const auto found = plan_.kv_cache.find(node.path);
    return found != plan_.kv_cache.end() && enabled_.count(node.layer) ? &found->second : nullptr;
  }

  void quantize_keys_and_values(Node& attention, const QuantSpec& grid) {
    for (size_t i : {size_t{1}, size_t{2}}) {
      const Id x = attention.inputs[i];
      attention.inputs[i] = fake_quant(builder_, x, grid, graph_.value(x).dtype);
    }
  }

  // The same slot of the Store, in codes.
  KvCache cache_on(const Node& attention, const QuantSpec& grid) {
    const auto part = [&](size_t input, const char* suffix, int64_t cols, DType dtype) {
      const Value slot = graph_.value(attention.inputs[input]);
      return builder_.state(slot.name + suffix, {slot.shape[0], cols}, dtype);
    };
    const int64_t width = graph_.value(attention.inputs[4]).shape.cols();
    const int64_t scales = grid.groups(width);
    const auto codes = [&](size_t input) {
      return part(input, ".codes", kv_code_bytes(grid.bits, width), kv_code_dtype(grid.bits));
    };
    KvCache cache{codes(4), codes(5), grid};
    const DType scale = kv_scale_dtype(grid.scale_type);
    cache.k_scale = part(4, ".scale", scales, scale);
    cache.v_scale = part(5, ".scale", scales, scale);
    if (grid.symmetric()) return cache;
    cache.k_zero = part(4, ".zero", scales, DType::i8);
    cache.v_zero = part(5, ".zero", scales, DType::i8);
    return cache;
  }

  // A weight is quantized from its master, not from the cast the model made of it.
  Id master_of(Id w) const {
    const Node* maker = size_t(w) < producers_.size() ? producers_[size_t(w)] : nullptr;
    return maker && maker->op == &kCast ? maker->inputs[0] : w;
  }

  Id quantized_weight(Id w, const std::string& path, const LinearQuant& quant, DType dtype) {
    const Id master = master_of(w);
    const QuantSpec& spec = *quant.weight;
    const Shape shape = graph_.value(master).shape;
    Id& quantized = quantized_masters_[master];
    if (quant.stored_weight) return quantized = stored_weight(path, quant, shape, dtype);
    if (quant.trained_scale) return quantized = on_trained_scale(master, path, spec, dtype);
    if (!quant.stored_grid)
      return quantized = fake_quant(builder_, master, spec, dtype, kNone, kNone, rounding());
    const StoredScales grid = stored_scales(path, quant, shape);
    return quantized = fake_quant(builder_, master, spec, dtype, grid.scale, grid.zero);
  }

  // Embeddings and head, in no layer, round to nearest.
  RandomRounding rounding() {
    if (!plan_.rounding_seed || builder_.place.layer < 0) return {};
    return {builder_.state(kRoundingStep, {1}, DType::i64), *plan_.rounding_seed};
  }

  Id on_trained_scale(Id master, const std::string& path, const QuantSpec& spec, DType dtype) {
    const Shape scales = scale_shape(graph_.value(master).shape, spec);
    const Id raw = builder_.param(weight_scale_name(path), scales, DType::f32);
    const Id zero =
        spec.symmetric() ? kNone : builder_.state(weight_zero_name(path), scales, DType::f32);
    const Id scale = round_scale(builder_, raw, spec.scale_type, NegativeScale::zero);
    return fake_quant(builder_, master, spec, dtype, scale, zero);
  }

  void quantize_table(Node& embedding, const LinearQuant& quant) {
    if (quant.weight)
      embedding.inputs[0] = quantized_weight(embedding.inputs[0], embedding.path, quant,
                                             graph_.value(embedding.outputs[0]).dtype);
  }

  // x and w are the first two inputs of a linear and of the head with its loss.
  void quantize_inputs(Node& linear, const LinearQuant& quant) {
    Id &x = linear.inputs[0], &w = linear.inputs[1];
    const DType dtype = graph_.value(x).dtype;
    // A tied head's weight is the table that the embedding has quantized: one matrix, one grid.
    const auto tied = quantized_masters_.find(master_of(w));
    if (tied != quantized_masters_.end())
      w = tied->second;
    else if (quant.weight)
      w = quantized_weight(w, linear.path, quant, dtype);
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
  Id stored_weight(const std::string& path, const LinearQuant& quant, const Shape& shape,
                   DType dtype) {
    const StoredScales grid = stored_scales(path, quant, shape);
    const Id codes = builder_.state(codes_name(path), shape, DType::i8);
    Quantized stored{codes, grid.scale, grid.zero};
    if (quant.listed_groups)
      stored.group_K = builder_.state(codes_group_name(path), {shape[1]}, DType::i32);
    return dequantize(builder_, stored, *quant.weight, dtype);
  }

  struct StoredScales {
    Id scale, zero = kNone;
  };
  StoredScales stored_scales(const std::string& path, const LinearQuant& quant,
                             const Shape& shape) {
    const QuantSpec& spec = *quant.weight;
    const Shape scales = scale_shape(shape, spec);
    const std::string name = codes_scale_name(path);
    StoredScales grid{};
    if (quant.trained_stored_scale)
      grid.scale = round_scale(builder_, builder_.param(name, scales, DType::f32), spec.scale_type,
                               NegativeScale::kept);
    else
      grid.scale = builder_.state(name, scales, DType::f32);
    if (!spec.symmetric()) grid.zero = builder_.state(codes_zero_name(path), scales, DType::f32);
    return grid;
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
  std::map<Id, Id> quantized_masters_;
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
