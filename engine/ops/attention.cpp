// attention: causal, grouped-query, within documents; flash style (Dao, 2023): only the log-sum-exp
// of the scores is kept for the gradient.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

void bind_backward(BindContext& c) {
  const auto& a = c.attribute<AttentionShape>();
  c.run(c.kernels.attention_backward, AttentionBackward{.q_THD = c.in(0),
                                                        .k_TGD = c.in(1),
                                                        .v_TGD = c.in(2),
                                                        .first_T = c.in(3),
                                                        .y_THD = c.in(4),
                                                        .lse_TH = c.in(5),
                                                        .dy_THD = c.in(6),
                                                        .dq_THD = c.out(0),
                                                        .dk_TGD = c.out(1),
                                                        .dv_TGD = c.out(2),
                                                        .scratch = {},
                                                        .heads = a.heads,
                                                        .kv_heads = a.kv_heads,
                                                        .head_dim = a.head_dim,
                                                        .sequence = a.sequence,
                                                        .scale = a.scale});
}
const Op kAttentionBackward{.name = "attention_backward", .bind = bind_backward};

void differentiate(GradContext& g) {
  Builder& b = g.builder();
  const Value q = b.value(g.in(0)), k = b.value(g.in(1));
  const auto grads =
      b.append(kAttentionBackward,
               {g.in(0), g.in(1), g.in(2), g.in(3), g.out(0), g.out(1), g.output_grad(0)},
               {{q.shape, q.dtype}, {k.shape, k.dtype}, {k.shape, k.dtype}},
               g.node().attribute<AttentionShape>());
  for (size_t i = 0; i < 3; ++i) g.add(i, grads[i]);
}

void bind(BindContext& c) {
  const auto& a = c.attribute<AttentionShape>();
  c.run(c.kernels.attention, Attention{.q_THD = c.in(0),
                                       .k_TGD = c.in(1),
                                       .v_TGD = c.in(2),
                                       .first_T = c.in(3),
                                       .y_THD = c.out(0),
                                       .lse_TH = c.out(1),
                                       .scratch = {},
                                       .heads = a.heads,
                                       .kv_heads = a.kv_heads,
                                       .head_dim = a.head_dim,
                                       .sequence = a.sequence,
                                       .scale = a.scale});
}

struct CachedAttributes {
  AttentionShape shape;
  QuantSpec grid;
};

// inputs: q, k, v, length, the cache's k, v, k_scale, v_scale, k_zero, v_zero.
void bind_cached(BindContext& c) {
  const auto& [a, grid] = c.attribute<CachedAttributes>();
  c.run(c.kernels.attention_cached, AttentionCached{.q_THD = c.in(0),
                                                    .k_TGD = c.in(1),
                                                    .v_TGD = c.in(2),
                                                    .length = c.in(3),
                                                    .k_cache = c.in(4),
                                                    .v_cache = c.in(5),
                                                    .y_THD = c.out(0),
                                                    .scratch = {},
                                                    .heads = a.heads,
                                                    .kv_heads = a.kv_heads,
                                                    .head_dim = a.head_dim,
                                                    .scale = a.scale,
                                                    .k_scale = c.in(6),
                                                    .v_scale = c.in(7),
                                                    .k_zero = c.in(8),
                                                    .v_zero = c.in(9),
                                                    .grid = grid});
}
void check_shapes(Builder& b, Id q, Id k, Id v, const AttentionShape& s) {
  const Value &vq = b.value(q), &vk = b.value(k), &vv = b.value(v);
  b.check(vq.shape.cols() == int64_t(s.heads) * s.head_dim &&
              vk.shape.cols() == int64_t(s.kv_heads) * s.head_dim && vk.shape == vv.shape &&
              vq.shape[0] == vk.shape[0] && s.heads % s.kv_heads == 0,
          "attention", "q [T, H*D], k and v [T, G*D] with H a multiple of G");
}

}  // namespace

const Op kAttention{.name = "attention", .differentiate = differentiate, .bind = bind};
const Op kAttentionCached{.name = "attention_cached", .bind = bind_cached, .reads_run_state = true};

Id attention(Builder& b, Id q, Id k, Id v, Id first_T, const AttentionShape& shape) {
  check_shapes(b, q, k, v, shape);
  const Value vq = b.value(q);
  b.check(vq.shape[0] % shape.sequence == 0, "attention", "T must be a multiple of the sequence");
  return b.append(kAttention, {q, k, v, first_T},
                  {{vq.shape, vq.dtype}, {{vq.shape[0], shape.heads}, DType::f32}}, shape)[0];
}

Node with_cache(Node node, const KvCache& cache) {
  node.inputs.resize(4);
  for (Id id : {cache.k, cache.v, cache.k_scale, cache.v_scale, cache.k_zero, cache.v_zero})
    node.inputs.push_back(id);
  auto attributes = node.attribute<CachedAttributes>();
  attributes.grid = cache.grid.value_or(QuantSpec{});
  node.attributes = attributes;
  return node;
}

Id attention_cached(Builder& b, Id q, Id k, Id v, Id length, const KvCache& cache,
                    const AttentionShape& shape) {
  check_shapes(b, q, k, v, shape);
  const Value vq = b.value(q);
  return b.append(
      kAttentionCached,
      {q, k, v, length, cache.k, cache.v, cache.k_scale, cache.v_scale, cache.k_zero, cache.v_zero},
      {{vq.shape, vq.dtype}}, CachedAttributes{shape, cache.grid.value_or(QuantSpec{})})[0];
}

}  // namespace qat
