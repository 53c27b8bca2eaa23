// The ops, as functions on a Builder. Legend: T tokens, C hidden, O out channels, K reduction, H
// heads, G key/value heads, D head dim, F ffn, V vocabulary. Activations are all f32 or all bf16.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/graph/builder.h"
#include "kernels/kernels.h"

namespace qat {

/// y = x in another dtype; x itself if it has that dtype already. The gradient passes unchanged.
Id cast(Builder& b, Id x, DType dtype);
/// y = a + b.
Id add(Builder& b, Id a, Id other);
/// Rows of table_VC by ids_T, as dtype.
Id embedding(Builder& b, Id table_VC, Id ids_T, DType dtype);
/// Each row (or each piece of weight's width in it) normalised and scaled.
Id rms_norm(Builder& b, Id x_TC, Id weight_C, float eps);
/// y_TO = x_TK . w_OKᵀ (+ bias_O).
Id linear(Builder& b, Id x_TK, Id w_OK, Id bias_O = kNone);
/// linear with an f32 result whatever the dtype of x (logits).
Id linear_f32(Builder& b, Id x_TK, Id w_OK);
/// c_MN = a_MK . b_KN, dtype of a.
Id matmul_nn(Builder& b, Id a_MK, Id b_KN);
/// c_MN = a_KMᵀ . b_KN in f32; may be a gradient accumulator.
Id matmul_tn(Builder& b, Id a_KM, Id b_KN);
/// c_MN = a_MK . b_NKᵀ in f32 (both f32); may be a gradient accumulator.
Id matmul_nt(Builder& b, Id a_MK, Id b_NK);
/// Sum over rows in f32; may be a gradient accumulator.
Id column_sum(Builder& b, Id x_TC);

/// y = x * by; x itself if by is 1.
Id scale(Builder& b, Id x, float by);
/// y_TC = x_TC * factor_C + bias_C (optional); the bias is not trained.
Id scale_columns(Builder& b, Id x_TC, Id factor_C, Id bias_C = kNone);
/// y_TC = x_TC * factor_T; all f32.
Id scale_rows(Builder& b, Id x_TC, Id factor_T);
/// a / b; gradients stop at b.
Id divide(Builder& b, Id a, Id other);
/// x with a share `rate` of its elements set to 0 and the others enlarged. Which ones follows from
/// seed, path, step and place. position: input i64 [2], see the kernel.
Id dropout(Builder& b, Id x_TC, Id position, float rate, uint64_t seed);

/// A frozen matrix [O, K] in few bits; absent parts are kNone.
struct PackedWeight {
  PackedSpec spec;
  Shape shape;
  Id codes, absmax, nested_absmax = kNone, nested_offset = kNone;
};
/// linear over a packed matrix, which is dequantized within the product.
Id linear_packed(Builder& b, Id x_TK, const PackedWeight& w, Id bias_O = kNone);
/// The values of a packed matrix.
Id unpack(Builder& b, const PackedWeight& w, DType dtype);

/// w_OK + b_OR . a_RK in f32, and the lengths of its rows.
struct MergedWeight {
  Id value, norm_O;
};
MergedWeight adapter_merge(Builder& b, Id w_OK, Id a_RK, Id b_OR);
/// The lengths of the rows of w_OK + b_OR . a_RK, f32; gradients stop here.
Id adapter_norm(Builder& b, Id w_OK, Id a_RK, Id b_OR);
/// Rotary embedding, rotate-half form. cos_sin f32 [positions, D]; positions_T i32.
Id rope(Builder& b, Id x, Id positions_T, Id cos_sin, int head_dim);

/// Each row, in pieces of `width`, times a Hadamard (or nearly) matrix of that order over its root:
/// see kernels/hadamard.h. Applied twice it is x again.
Id hadamard(Builder& b, Id x_TC, int64_t width);

struct AttentionShape {
  int heads, kv_heads, head_dim;
  int64_t sequence;  ///< tokens a sequence; T is a multiple
  float scale;
};
/// Causal grouped-query attention within documents (first_T: start of each token's document).
Id attention(Builder& b, Id q, Id k, Id v, Id first_T, const AttentionShape& shape);
/// The states of a KV cache. On a grid: codes, and their scales and (unless symmetric) zero points.
struct KvCache {
  Id k, v;
  std::optional<QuantSpec> grid = {};
  Id k_scale = kNone, v_scale = kNone, k_zero = kNone, v_zero = kNone;
};
/// Attention of T new tokens over a cache that holds length [1] tokens; appends k, v to the cache.
Id attention_cached(Builder& b, Id q, Id k, Id v, Id length, const KvCache& cache,
                    const AttentionShape& shape);
/// The same node over another cache.
Node with_cache(Node attention_cached, const KvCache& cache);
/// silu(gate) * up.
Id swiglu(Builder& b, Id gate_TF, Id up_TF);

struct LossWeights {
  float cross_entropy = 1.0f, kl = 0.0f, temperature = 1.0f;
};
struct LossInputs {
  Id x_TC, w_VC, targets_T;
  Id teacher_x_TC = kNone, teacher_w_VC = kNone;
  Id inv_tokens;  ///< f32 [1], one over the valid tokens of the whole batch
};
struct LossOutputs {
  Id sums;   ///< f32 [4]: sum of ce, sum of kl, valid tokens, top-1 hits
  Id nll_T;  ///< f32, ce of each token
};
/// Chunked head, cross-entropy and KL; its gradients are computed with it when differentiated.
LossOutputs head_loss(Builder& b, const LossInputs& inputs, const LossWeights& weights);

struct Quantized {
  Id codes, scale, zero;  ///< zero kNone for symmetric specs
  Id group_K = kNone;     ///< i32 [K], where groups are not runs of columns
};
/// Integer codes and scales of x. given_scale (given_zero): the grid is taken, not computed.
Quantized quantize(Builder& b, Id x, const QuantSpec& spec, Id given_scale = kNone,
                   Id given_zero = kNone);
/// Scales (f32) as a file of this type stores them; the gradient passes unchanged.
Id round_scale(Builder& b, Id raw, ScaleType type, NegativeScale negative);
/// (codes - zero) * scale. Its gradient goes to the scale alone, where that is trained.
Id dequantize(Builder& b, const Quantized& q, const QuantSpec& spec, DType dtype);
/// Rounding up or down at random, by how near each code is: the noise of an element follows from
/// seed, path, step (state i64 [1]; kNone: to nearest) and the element's place.
struct RandomRounding {
  Id step = kNone;
  uint64_t seed = 0;
};
/// dequantize(quantize(x)) with the straight-through gradient; a given scale that depends on
/// trained parameters gets LSQ's.
Id fake_quant(Builder& b, Id x, const QuantSpec& spec, DType dtype, Id given_scale = kNone,
              Id given_zero = kNone, const RandomRounding& rounding = {});
/// Matmul of int8 codes with exact integer sums: what linear(dequantize(a), dequantize(w)) means.
Id linear_int8(Builder& b, const Quantized& a, const Quantized& w, DType dtype, Id bias_O = kNone);

/// Where the statistics of a value go: states that each run widens or adds to, kNone where not
/// wanted.
struct ObserveInto {
  Id column_amax_C = kNone;  ///< f32 [C], starts at 0
  Id min_max = kNone;        ///< f32 [2], starts at +infinity, -infinity
  Id histogram = kNone;      ///< i64 [bins] over [histogram_bottom, histogram_top], starts at 0
  float histogram_bottom = 0.0f, histogram_top = 0.0f;
};
/// Notes statistics of x_TC; makes no value, and no pass removes or hoists it.
void observe(Builder& b, Id x_TC, const ObserveInto& into);

struct FakeQuantAttributes {
  QuantSpec spec;
  uint64_t seed = 0;          ///< of stochastic rounding
  int64_t first_element = 0;  ///< of the whole, where a rank has some rows (stochastic rounding)
};
/// Scale tensor shape of x under a spec.
Shape scale_shape(const Shape& x, const QuantSpec& spec);

/// The op objects that passes match on.
extern const Op kAttention, kAttentionCached, kLinear, kLinearInt8, kFakeQuant, kQuantize,
    kDequantize, kCast, kRmsNormBackward, kAdd, kMatmulTn, kHeadLoss, kObserve, kEmbedding;

}  // namespace qat
