// The one list of kernels. A kernel is a free function of one argument struct and a Stream: views
// in, nothing allocated, nothing thrown after launch. A null entry means "this backend cannot"; the
// runtime says so when a program is compiled.
//
// Legend of shapes: T tokens (rows of a batch), C hidden, O out channels, K reduction, H heads,
// G key/value heads, D head dim, F ffn, V vocabulary, N any count. Activations are f32 or bf16 (all
// activations of a call alike); accumulation is f32. Parameters of norms and biases are f32.
// Every kernel gives the same bits for any number of threads.
#pragma once

#include "kernels/packed.h"
#include "kernels/quant_spec.h"
#include "kernels/stream.h"
#include "kernels/view.h"

namespace qat {

/// y = x converted (f32 <-> bf16, round to nearest even).
struct Cast {
  ConstView x;
  View y;
};

/// y = a + b; y may be a or b.
struct Add {
  ConstView a, b;
  View y;
};

/// y = value everywhere (f32, bf16).
struct Fill {
  View y;
  float value;
};

/// y_TC = table_VC[ids_T]; ids i32 in [0, V), checked by the caller. table f32 or bf16.
struct Embedding {
  ConstView table_VC, ids_T;
  View y_TC;
};

/// dtable_VC (f32) += or = rows of dy_TC summed by id, in token order. accumulate false: zeroed
/// first.
struct EmbeddingBackward {
  ConstView dy_TC, ids_T;
  View dtable_VC;
  bool accumulate;
};

/// y = x * rstd * weight, rstd = 1/sqrt(mean(x^2) + eps). Rows are tokens; with weight of D < C
/// columns each row is normalised in pieces of D (the q/k norms of Qwen3). rstd_T f32 has rows*C/D.
struct RmsNorm {
  ConstView x_TC, weight_C;
  View y_TC, rstd_T;
  float eps;
};

/// dx_TC (dtype of x) and dweight_C (f32). residual (optional, [T, C]) is added to dx.
struct RmsNormBackward {
  ConstView dy_TC, x_TC, weight_C, rstd_T, residual_TC;
  View dx_TC, dweight_C, scratch;
  bool accumulate;  ///< dweight += instead of =
};

enum class MatmulForm : uint8_t {
  nt,  ///< c_MN = a_MK . b_NKᵀ   (forward: x . wᵀ)
  nn,  ///< c_MN = a_MK . b_KN    (input gradient: dy . w)
  tn   ///< c_MN = a_KMᵀ . b_KN   (weight gradient: dyᵀ . x)
};

/// bf16 x bf16 -> bf16 or f32; f32 x f32 -> f32. accumulate: c += (c f32 only).
struct Matmul {
  ConstView a, b;
  View c;
  MatmulForm form;
  bool accumulate;
};

/// y_TO = scale_T * scale_O * sum_K (a_TK - zero_T) * b_OK on i8 codes, exact s32 sums. Null when
/// the processor has no exact int8 path. zero_T (f32, optional) needs sums_O (i32, row sums of b).
struct MatmulInt8 {
  ConstView a_TK, scale_T, zero_T, b_OK, scale_O, sums_O;
  View y_TO, scratch;
};

/// y_TO = sum over groups g of K/G columns of scale_T[t, g] * scale_O[o, g] * (exact s32 sum of
/// codes over the group), added up in f32, group after group. scale_OG [O, G]; scale_T [T, G], or
/// [T, 1] for one scale a token, which then multiplies last. K/G is a multiple of 4. Null where
/// products in floating point are faster: integers of a group have to leave the multiplier before
/// they are scaled.
struct MatmulInt8Groups {
  ConstView a_TK, scale_T, b_OK, scale_OG;
  View y_TO;
};

/// y_TO += bias_O (in place on y).
struct BiasAdd {
  ConstView bias_O;
  View y_TO;
};

/// out_C (f32) = or += sum over rows of x_TC, or of x_TC * times_TC where that is given.
struct ColumnSum {
  ConstView x_TC;
  View out_C, scratch;
  bool accumulate;
  ConstView times_TC = {};
};

/// y = x * by (f32, bf16); y may be x.
struct Scale {
  ConstView x;
  View y;
  float by;
};

/// y_TC = x_TC * factor + bias_C: factor f32 [C] (by column) or [T] (by row); bias f32 [C],
/// optional. y may be x.
struct ScaleAxis {
  enum class By : uint8_t { column, row };
  ConstView x_TC, factor, bias_C;
  View y_TC;
  By by;
};

/// y = a / b (f32).
struct Divide {
  ConstView a, b;
  View y;
};

/// out_T (f32) = or += sum over columns of a_TC * b_TC (f32).
struct RowDot {
  ConstView a_TC, b_TC;
  View out_T;
  bool accumulate;
};

/// y = x where kept, times 1 / (kept share), else 0. Which elements are kept follows from seed,
/// position and the element's index alone. position i64 [2]: the step, and the row of the whole
/// batch that row 0 of x is. rate is rounded to 1/65536.
struct Dropout {
  ConstView x_TC, position;
  View y_TC;
  float rate;
  uint64_t seed;
};

/// The parts of a packed matrix from x (f32).
struct Pack {
  ConstView x;
  PackedParts w;
};

/// y (f32 or bf16) = the values of a packed matrix.
struct Unpack {
  PackedView w;
  View y;
};

/// Matmul with a packed right side: nt is a_TK . w_OKᵀ, nn is a_TO . w_OK. The values of the one
/// matrix lie in scratch, in the dtype of a.
struct MatmulPacked {
  ConstView a;
  PackedView w;
  View c, scratch;
  MatmulForm form;
};

/// y_OK (f32, optional) = w_OK + b_OR . a_RK; norm_O (f32, optional) = the length of its rows. w is
/// f32 or bf16, a and b are f32 and may both be absent.
struct AdapterMerge {
  ConstView w_OK, a_RK, b_OR;
  View y_OK, norm_O, scratch;
};

/// Rotary embedding of the half-split ("rotate_half") form on x_T(H*D); y may be x.
/// cos_sin: f32 [positions, D] = D/2 cosines then D/2 sines; positions_T i32. sign -1 rotates back.
struct Rope {
  ConstView x_TC, positions_T, cos_sin;
  View y_TC;
  int head_dim;
  float sign;
};

/// Each row, in pieces of `width`, times the orthogonal matrix of kernels/hadamard.h, which is its
/// own inverse and transpose; y may be x.
struct Hadamard {
  ConstView x_TC;
  View y_TC, scratch;
  int64_t width;
};

/// Causal attention with grouped key/value heads. Rows are B sequences of `sequence` tokens; token
/// t of a sequence sees tokens first_T[t] .. t of it (first_T i32: start of its document).
/// y_T(H*D), lse_TH f32 = log sum exp of the scaled scores.
struct Attention {
  ConstView q_THD, k_TGD, v_TGD, first_T;
  View y_THD, lse_TH, scratch;
  int heads, kv_heads, head_dim;
  int64_t sequence;
  float scale;
};

struct AttentionBackward {
  ConstView q_THD, k_TGD, v_TGD, first_T, y_THD, lse_TH, dy_THD;
  View dq_THD, dk_TGD, dv_TGD, scratch;
  int heads, kv_heads, head_dim;
  int64_t sequence;
  float scale;
};

/// Attention of T new tokens over a cache that already holds `length` (i32 [1]) tokens: writes k, v
/// of the new tokens at rows length.. of the caches, then attends causally. Caches f32 or bf16.
/// With scales the caches are on `grid` (8 or 4 bits, a token a row): i8 codes, or u8 with two int4
/// codes a byte (pack_int4), and for each row its scales in kv_scale_dtype and, where asymmetric,
/// its zero points (i8). New rows are attended to as they are stored.
struct AttentionCached {
  ConstView q_THD, k_TGD, v_TGD, length;
  View k_cache, v_cache, y_THD, scratch;
  int heads, kv_heads, head_dim;
  float scale;
  View k_scale = {}, v_scale = {}, k_zero = {}, v_zero = {};
  QuantSpec grid = {};
};

/// What a cache keeps its scales in: all that their type says.
constexpr DType kv_scale_dtype(ScaleType type) {
  return type == ScaleType::f32 ? DType::f32 : type == ScaleType::bf16 ? DType::bf16 : DType::f16;
}
/// What a cache keeps its codes in, and how many bytes a row of `width` takes.
constexpr DType kv_code_dtype(int bits) {
  return bits == 4 ? DType::u8 : DType::i8;
}
constexpr int64_t kv_code_bytes(int bits, int64_t width) {
  return bits == 4 ? width / 2 : width;
}

/// y = silu(gate) * up.
struct SwiGlu {
  ConstView gate_TF, up_TF;
  View y_TF;
};

struct SwiGluBackward {
  ConstView dy_TF, gate_TF, up_TF;
  View dgate_TF, dup_TF;
};

/// Head matmul, cross-entropy and KL distillation with their gradients, token chunk by token chunk:
/// the logits of the whole batch never exist.
///   ce_t = -log softmax(x_t w^T)[target_t],  kl_t = temperature^2 KL(softmax(z^T/temp) ||
///   softmax(z/temp)) loss = inv_tokens * sum_t over valid t of (ce_weight * ce_t + kl_weight *
///   kl_t)
/// targets_T i32, -1 = not counted (neither in ce nor in kl). inv_tokens f32 [1].
/// sums f32 [4] = {sum ce, sum kl, valid tokens, top-1 hits of target}, written not accumulated.
/// nll_T (optional f32 [T]): ce per token, 0 where not counted.
/// Gradients are of `loss`: dx_TC (dtype of x), dw_VC (f32); absent views are not computed.
/// Teacher views absent: kl is 0.
struct HeadLoss {
  ConstView x_TC, w_VC, targets_T, teacher_x_TC, teacher_w_VC, inv_tokens;
  View sums, nll_T, dx_TC, dw_VC, scratch;
  float ce_weight, kl_weight, temperature;
  bool accumulate_dw;
};

/// What makes rounding stochastic: element i of the tensor moves by uniform(seed, step, i) - 1/2 code
/// before it is rounded to nearest. step i64 [1]; empty: no noise. Integer codes only.
struct RoundingNoise {
  ConstView step = {};
  uint64_t seed = 0;
  int64_t first_element = 0;  ///< of the whole tensor, where x is some of its rows
};

/// codes i8, scale f32 and zero f32 of x by spec. scale/zero are [rows, groups] or [1] per tensor.
/// With given_scale (and given_zero when asymmetric) the grid is taken, not computed: then scale
/// and zero outputs may be empty. zero may be empty for a symmetric spec; where the range has a
/// minimum it holds that (see Grid). code = clamp(rne(x * (1/scale)) + zero, qmin, qmax); a scale
/// of 0 is stored as the smallest normal value of the scale type so that nothing divides by zero.
/// Finite x never gives NaN; NaN in x makes its scale NaN (see quant_math.h).
struct Quantize {
  ConstView x, given_scale, given_zero;
  View codes, scale, zero;
  QuantSpec spec;
  RoundingNoise noise = {};
};

/// y = (codes - zero) * scale + minimum, rounded to y's dtype (f32, bf16). group_K (i32 [K],
/// optional, for Per::group): the group of each column, where groups are not runs of columns.
struct Dequantize {
  ConstView codes, scale, zero;
  View y;
  QuantSpec spec;
  ConstView group_K = {};
};

/// dscale (f32, of the grid's scales) += or = sum of dy * (code - zero) over what shares a scale:
/// the gradient of Dequantize by its scales. dy is f32; with a minimum codes count from qmin, in a
/// stretched range from -1/2.
struct ScaleGradient {
  ConstView dy, codes, zero, group_K;
  View dscale;
  QuantSpec spec;
  bool accumulate;
};

/// scale (f32) = raw as a file of this type stores it: stored_scale of quant_math.h, or
/// trained_scale where what is negative counts as 0.
struct RoundScale {
  ConstView raw;
  View scale;
  ScaleType type;
  NegativeScale negative;
};

/// y = dequantize(quantize(x)) in one read, the same bits; scale/zero written for the backward
/// pass.
struct FakeQuant {
  ConstView x, given_scale, given_zero;
  View y, scale, zero;
  QuantSpec spec;
  RoundingNoise noise = {};
};

/// Straight-through estimator: dx = dy where the rounded x/scale + zero lies in [qmin, qmax], else
/// 0. dy and dx may be the same view. x and dy may differ in dtype.
struct FakeQuantBackward {
  ConstView dy, x, scale, zero;
  View dx;
  QuantSpec spec;
};

/// LSQ's gradients (Esser et al., 2020) of fake_quant on a trained scale, by scale_slope:
///   dx = dy inside the range, else 0;  dscale (f32) = gain * sum of dy * slope over its elements.
/// dy and dx may be the same view. zero may be empty. scratch: of Per::tensor.
struct TrainedScaleBackward {
  ConstView dy, x, scale, zero;
  View dx, dscale, scratch;
  QuantSpec spec;
  float gain;
};

/// Running statistics of an activation x_TC: column_amax_C (f32, optional) = max(old, |x| by
/// column); min_max (f32 [2], optional) = running min and max; histogram (i64 [bins], optional)
/// counts |x| / histogram_top * bins, the last bin taking what lies above. With a histogram_bottom
/// below 0 it counts x itself in bins over [histogram_bottom, histogram_top], the outer ones taking
/// the rest.
struct Observe {
  ConstView x_TC;
  View column_amax_C, min_max, histogram;
  float histogram_top;
  float histogram_bottom = 0.0f;
};

/// sum of squares (f64 accumulate, fixed order) added to out[0], count of non-finite values to
/// out[1]; out is f64 [2] passed as raw pointer because it is control data.
struct SumSquares {
  ConstView x;
  double* out;
};

/// One AdamW step of one parameter, decoupled weight decay.
///   step_size = lr * sqrt(1-beta2^t) / (1-beta1^t);  p -= step_size * m / (sqrt(v) +
///   eps*sqrt(1-beta2^t)) then p *= 1 - lr * weight_decay (bitsandbytes' order)
/// The gradient is multiplied by grad_scale (clipping) first. 32-bit states: m, v f32, absmax
/// empty. 8-bit states: m, v u8 indices of bitsandbytes' dynamic maps (m signed, v unsigned),
/// blocks of 256, m_absmax, v_absmax f32 [ceil(N/256)]. p f32, or bf16 with stochastic rounding
/// keyed by (seed, step, element of the parameter); copy (optional, bf16) gets the updated p rounded to nearest
/// even. A gradient element that is not finite leaves its p alone; its 32-bit m and v stay, its
/// 8-bit m and v become 0, as in bitsandbytes.
struct AdamW {
  View p, m, v, m_absmax, v_absmax, copy;
  ConstView g;
  float lr, beta1, beta2, eps, weight_decay, grad_scale;
  int64_t step;  ///< counts from 1
  uint64_t seed;
  int64_t first_element = 0;  ///< of the parameter that p begins with; a multiple of 256
};

/// A kernel and the scratch bytes it wants (null = none).
template <class Args>
struct Kernel {
  void (*run)(const Args&, Stream&) = nullptr;
  size_t (*scratch_bytes)(const Args&) = nullptr;
  explicit operator bool() const { return run != nullptr; }
};

/// One entry a kernel, one table a backend.
struct KernelTable {
  const char* name = "";
  Kernel<Cast> cast;
  Kernel<Add> add;
  Kernel<Fill> fill;
  Kernel<Embedding> embedding;
  Kernel<EmbeddingBackward> embedding_backward;
  Kernel<RmsNorm> rms_norm;
  Kernel<RmsNormBackward> rms_norm_backward;
  Kernel<Matmul> matmul;
  Kernel<MatmulInt8> matmul_int8;
  Kernel<MatmulInt8Groups> matmul_int8_groups;
  Kernel<BiasAdd> bias_add;
  Kernel<ColumnSum> column_sum;
  Kernel<Scale> scale;
  Kernel<ScaleAxis> scale_axis;
  Kernel<Divide> divide;
  Kernel<RowDot> row_dot;
  Kernel<Dropout> dropout;
  Kernel<Pack> pack;
  Kernel<Unpack> unpack;
  Kernel<MatmulPacked> matmul_packed;
  Kernel<AdapterMerge> adapter_merge;
  Kernel<Rope> rope;
  Kernel<Hadamard> hadamard;
  Kernel<Attention> attention;
  Kernel<AttentionBackward> attention_backward;
  Kernel<AttentionCached> attention_cached;
  Kernel<SwiGlu> swiglu;
  Kernel<SwiGluBackward> swiglu_backward;
  Kernel<HeadLoss> head_loss;
  Kernel<Quantize> quantize;
  Kernel<Dequantize> dequantize;
  Kernel<ScaleGradient> scale_gradient;
  Kernel<RoundScale> round_scale;
  Kernel<FakeQuant> fake_quant;
  Kernel<FakeQuantBackward> fake_quant_backward;
  Kernel<TrainedScaleBackward> trained_scale_backward;
  Kernel<Observe> observe;
  Kernel<SumSquares> sum_squares;
  Kernel<AdamW> adamw;
};

/// The CPU's table for the instruction set found at start (QAT_ISA=avx2|avx512|... lowers it).
const KernelTable& cpu_kernels();

/// Human readable: the instruction set in use, e.g. "avx512+bf16+vnni+amx".
const char* cpu_isa();

}  // namespace qat
