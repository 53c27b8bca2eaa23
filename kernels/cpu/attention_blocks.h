// Attention block by block with the tiles of gemm_tiles.h: included once by each instruction set's
// file, which names the engine function QAT_ATTENTION_ENGINE.
//
// Forward, for 64 queries against 128 keys at a time, with running row maximum m and sum l:
//   S = Q K^T;  P = 2^(S * scale * log2(e) - m);  O = O * 2^(m_old - m) + P V
// Backward, with P = exp(S * scale - lse) and delta = rowsum(dO * O):
//   dP = dO V^T;  dS = P * (dP - delta);  dQ += dS K;  dK^T += Q^T dS;  dV^T += dO^T P
// The transposed sums let P and dS serve as packed operands straight from the registers.
#pragma once

#include <math.h>

#include "kernels/cpu/attention_engine.h"
#include "kernels/cpu/gemm_tiles.h"

namespace qat::cpu {
namespace {

constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

#if defined(QAT_BF16) || defined(QAT_AMX)

QAT_INLINE Floats weight_exp2(Floats x) {
  return exp2_short(x);
}
/// Rows r and r + 1 of a packed panel.
QAT_INLINE void put_pair(Element* p, Floats even, Floats odd) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), both));
}

#else

QAT_INLINE Floats weight_exp2(Floats x) {
  return exp2_of(x);
}
QAT_INLINE void put_pair(Element* p, Floats even, Floats odd) {
  store(p, even);
  store(p + kTile, odd);
}

#endif

QAT_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/// Where a tensor of the batch holds row `token` of head `head`.
QAT_INLINE int64_t offset_of(const AttentionWork& w, int64_t sequence, int64_t token, int64_t heads,
                             int64_t head) {
  return ((sequence * w.sequence + token) * heads + head) * w.head_dim;
}

/// The packed copy `copy` of a key/value head.
QAT_INLINE Element* packed_copy(const AttentionWork& w, int64_t copies, int64_t sequence,
                                int64_t kv_head, int64_t copy) {
  return reinterpret_cast<Element*>(w.scratch) +
         ((sequence * w.kv_heads + kv_head) * copies + copy) * w.packed_count();
}

/// Depth of the products over head_dim.
QAT_INLINE int64_t depth_of(const AttentionWork& w) {
  return padded(w.head_dim, kStep);
}

/// Keys of a block as columns of S: panels of 32 keys, depth head_dim.
void pack_key_columns(const AttentionWork& w, const void* data, int64_t sequence, int64_t kv_head,
                      int64_t block, Element* copy, Element* temp) {
  const int64_t depth = depth_of(w), stride = w.kv_heads * w.head_dim;
  for (int64_t k = block * kKeyBlock; k < (block + 1) * kKeyBlock; k += kTile) {
    const int64_t rows = smaller(kTile, w.sequence - k) < 0 ? 0 : smaller(kTile, w.sequence - k);
    const Rows source = gather(data, w.type, offset_of(w, sequence, k, w.kv_heads, kv_head), stride,
                               rows, w.head_dim, kTile, depth, temp);
    pack_columns(source, depth, copy + k * depth);
  }
}

/// Keys of a block as the summed dimension: for each 32 columns of head_dim a panel over all keys.
void pack_key_rows(const AttentionWork& w, const void* data, int64_t sequence, int64_t kv_head,
                   int64_t block, Element* copy, Element* temp) {
  const int64_t stride = w.kv_heads * w.head_dim, k = block * kKeyBlock;
  const int64_t rows = smaller(kKeyBlock, w.sequence - k);
  for (int64_t d = 0; d < w.padded_dim(); d += kTile) {
    const int64_t cols = smaller(kTile, w.head_dim - d);
    const Rows source = gather(data, w.type, offset_of(w, sequence, k, w.kv_heads, kv_head) + d,
                               stride, rows, cols, kKeyBlock, kTile, temp);
    pack_rows(source, kKeyBlock, copy + d * w.padded_sequence() + k * kTile);
  }
}

void pack_forward(const AttentionWork& w, int64_t sequence, int64_t kv_head, int64_t block,
                  std::byte* temp) {
  auto* rows = reinterpret_cast<Element*>(temp);
  pack_key_columns(w, w.k, sequence, kv_head, block,
                   packed_copy(w, kForwardCopies, sequence, kv_head, 0), rows);
  pack_key_rows(w, w.v, sequence, kv_head, block,
                packed_copy(w, kForwardCopies, sequence, kv_head, 1), rows);
}

void pack_backward(const AttentionWork& w, int64_t sequence, int64_t kv_head, int64_t block,
                   std::byte* temp) {
  auto* rows = reinterpret_cast<Element*>(temp);
  pack_key_columns(w, w.k, sequence, kv_head, block,
                   packed_copy(w, kBackwardCopies, sequence, kv_head, 0), rows);
  pack_key_columns(w, w.v, sequence, kv_head, block,
                   packed_copy(w, kBackwardCopies, sequence, kv_head, 1), rows);
  pack_key_rows(w, w.k, sequence, kv_head, block,
                packed_copy(w, kBackwardCopies, sequence, kv_head, 2), rows);
}

/// Buffers of one thread, cut from its memory.
struct BlockTemp {
  float *scores, *dscores;               // [64][128]
  float* sums;                           // [64][padded_dim]: O, or dQ
  Element* weights;                      // [64][128] row major: P, or dS
  Element *panel_p, *panel_ds;           // [4 panels][64 / kPair][32][kPair]
  Element *rows_a, *rows_b;              // [64][depth]: Q, dO when they cannot be used in place
  Element *transposed_a, *transposed_b;  // [padded_dim][64]: Q^T, dO^T
  Element* spare;                        // packing
};

constexpr int64_t kBlock = kQueryBlock * kKeyBlock;

size_t temp_bytes(const AttentionWork& w) {
  const int64_t dim = w.padded_dim();
  const int64_t floats = 2 * kBlock + kQueryBlock * dim;
  const int64_t elements = 3 * kBlock + 4 * kQueryBlock * dim + kKeyBlock * (dim + kTile);
  return size_t(floats) * sizeof(float) + size_t(elements) * sizeof(Element);
}

BlockTemp cut(const AttentionWork& w, std::byte* temp) {
  const int64_t rows = kQueryBlock * w.padded_dim();
  BlockTemp t;
  t.scores = reinterpret_cast<float*>(temp);
  t.dscores = t.scores + kBlock;
  t.sums = t.dscores + kBlock;
  t.weights = reinterpret_cast<Element*>(t.sums + rows);
  t.panel_p = t.weights + kBlock;
  t.panel_ds = t.panel_p + kBlock;
  t.rows_a = t.panel_ds + kBlock;
  t.rows_b = t.rows_a + rows;
  t.transposed_a = t.rows_b + rows;
  t.transposed_b = t.transposed_a + rows;
  t.spare = t.transposed_b + rows;
  return t;
}

/// The queries of a block, and which keys each may see.
struct Queries {
  int64_t sequence, head, start, rows;
  int64_t low[kQueryBlock];  ///< first key seen by row i, relative to the sequence
  int64_t lowest, highest;   ///< of low
};

Queries queries_of(const AttentionWork& w, int64_t sequence, int64_t head, int64_t block) {
  Queries q;
  q.sequence = sequence;
  q.head = head;
  q.start = block * kQueryBlock;
  q.rows = smaller(kQueryBlock, w.sequence - q.start);
  q.lowest = w.sequence;
  q.highest = 0;
  for (int64_t i = 0; i < q.rows; ++i) {
    const int64_t low = w.first == nullptr ? 0 : w.first[sequence * w.sequence + q.start + i];
    q.low[i] = low;
    if (low < q.lowest) q.lowest = low;
    if (low > q.highest) q.highest = low;
  }
  return q;
}

/// True if some row of the block does not see every key of the block at k0.
QAT_INLINE bool is_masked(const Queries& q, int64_t k0) {
  return q.highest > k0 || k0 + kKeyBlock - 1 > q.start || q.rows < kQueryBlock;
}

/// Rows of the block in q-like tensors, ready as left operands: two tiles of 32.
struct LeftRows {
  Rows tile[kQueryBlock / kTile];
};

LeftRows left_rows(const AttentionWork& w, const void* data, const Queries& q, Element* temp) {
  const int64_t depth = depth_of(w), stride = w.heads * w.head_dim;
  LeftRows left;
  for (int64_t i = 0; i < kQueryBlock / kTile; ++i) {
    int64_t rows = smaller(kTile, q.rows - i * kTile);
    if (rows < 0) rows = 0;
    left.tile[i] =
        gather(data, w.type, offset_of(w, q.sequence, q.start + i * kTile, w.heads, q.head), stride,
               rows, w.head_dim, kTile, depth, temp + i * kTile * depth);
  }
  return left;
}

/// out[64][128] = left . panels of the key block.
QAT_INLINE void multiply_keys(const LeftRows& left, const Element* panels, int64_t depth,
                              float* out) {
  for (int64_t p = 0; p < kKeyBlock / kTile; ++p)
    for (int64_t i = 0; i < kQueryBlock / kTile; ++i)
      multiply_tile(left.tile[i].at, left.tile[i].stride, panels + p * kTile * depth, depth,
                    out + i * kTile * kKeyBlock + p * kTile, kKeyBlock, Start::zero);
}

/// sums[64][padded_dim] += weights[64][128] . panels over keys.
QAT_INLINE void add_weighted(const AttentionWork& w, const Element* weights, const Element* copy,
                             int64_t k0, float* sums) {
  const int64_t dim = w.padded_dim();
  for (int64_t d = 0; d < dim; d += kTile)
    for (int64_t i = 0; i < kQueryBlock; i += kTile)
      multiply_tile(weights + i * kKeyBlock, kKeyBlock, copy + d * w.padded_sequence() + k0 * kTile,
                    kKeyBlock, sums + i * dim + d, dim, Start::add);
}

/// Rounds a row of sums times `factor` into the tensor.
QAT_INLINE void put_row(const AttentionWork& w, const float* sums, float factor, void* data,
                        int64_t offset) {
  int64_t d = 0;
  const Floats factors = all(factor);
  if (w.type == DType::bf16) {
    auto* out = static_cast<BFloat16*>(data) + offset;
    for (; d + kLanes <= w.head_dim; d += kLanes) store(out + d, multiply(load(sums + d), factors));
    for (; d < w.head_dim; ++d) out[d] = to_bfloat16(sums[d] * factor);
  } else {
    auto* out = static_cast<float*>(data) + offset;
    for (; d < w.head_dim; ++d) out[d] = sums[d] * factor;
  }
}

void forward(const AttentionWork& w, int64_t sequence, int64_t head, int64_t block,
             std::byte* temp) {
  const TileScope scope;
  const BlockTemp t = cut(w, temp);
  const Queries q = queries_of(w, sequence, head, block);
  const int64_t kv_head = head / w.group(), depth = depth_of(w), dim = w.padded_dim();
  const Element* keys = packed_copy(w, kForwardCopies, sequence, kv_head, 0);
  const Element* values = packed_copy(w, kForwardCopies, sequence, kv_head, 1);
  const LeftRows left = left_rows(w, w.q, q, t.rows_a);
  const float factor = w.scale * kLog2E;
  float top[kQueryBlock], total[kQueryBlock];
  for (int64_t i = 0; i < kQueryBlock; ++i) {
    top[i] = -INFINITY;
    total[i] = 0.0f;
  }
  __builtin_memset(t.sums, 0, size_t(kQueryBlock * dim) * sizeof(float));

  for (int64_t k0 = q.lowest / kKeyBlock * kKeyBlock; k0 < q.start + q.rows; k0 += kKeyBlock) {
    multiply_keys(left, keys + k0 * depth, depth, t.scores);
    const bool masked = is_masked(q, k0);
    for (int64_t i = 0; i < kQueryBlock; ++i) {
      Element* weights = t.weights + i * kKeyBlock;
      if (i >= q.rows) {
        __builtin_memset(static_cast<void*>(weights), 0, kKeyBlock * sizeof(Element));
        continue;
      }
      float* scores = t.scores + i * kKeyBlock;
      if (masked)
        for (int64_t j = 0; j < kKeyBlock; j += kLanes)
          store(scores + j, keep_lanes(load(scores + j), q.low[i] - k0 - j,
                                       q.start + i + 1 - k0 - j, all(-INFINITY)));
      Floats largest_lanes = load(scores);
      for (int64_t j = kLanes; j < kKeyBlock; j += kLanes)
        largest_lanes = larger(largest_lanes, load(scores + j));
      const float found = largest(largest_lanes) * factor;
      const float now = found > top[i] ? found : top[i];
      const float shift = now == -INFINITY ? 0.0f : now;  // nothing seen yet: weights are 2^-inf
      Floats sums = all(0.0f);
      for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
        const Floats p = weight_exp2(fused(load(scores + j), all(factor), all(-shift)));
        sums = add(sums, p);
        put(weights + j, p);
      }
      if (now != top[i]) {
        const float shrink = exp2f(top[i] - shift);
        total[i] *= shrink;
        float* row = t.sums + i * dim;
        for (int64_t d = 0; d < dim; d += kLanes)
          store(row + d, multiply(load(row + d), all(shrink)));
        top[i] = now;
      }
      total[i] += sum(sums);
    }
    add_weighted(w, t.weights, values, k0, t.sums);
  }
  for (int64_t i = 0; i < q.rows; ++i) {
    const int64_t token = q.start + i;
    put_row(w, t.sums + i * dim, 1.0f / total[i], w.out,
            offset_of(w, sequence, token, w.heads, head));
    w.lse[(sequence * w.sequence + token) * w.heads + head] = (top[i] + log2f(total[i])) * kLn2;
  }
}

/// The sums of one head over its queries: dK^T and dV^T, [padded_dim][padded_sequence] each.
QAT_INLINE float* head_sums(const AttentionWork& w, int64_t sequence, int64_t head) {
  const int64_t packed = w.sequences * w.kv_heads * kBackwardCopies * w.packed_count();
  return reinterpret_cast<float*>(reinterpret_cast<Element*>(w.scratch) + packed) +
         (sequence * w.heads + head) * 2 * w.packed_count();
}

/// out[padded_dim][64] of the 64 queries of a q-like tensor.
void transpose_queries(const AttentionWork& w, const void* data, const Queries& q, Element* spare,
                       Element* out) {
  for (int64_t d = 0; d < w.padded_dim(); d += kTile) {
    const Rows rows = gather(data, w.type, offset_of(w, q.sequence, q.start, w.heads, q.head) + d,
                             w.heads * w.head_dim, q.rows, smaller(kTile, w.head_dim - d),
                             kQueryBlock, kTile, spare);
    pack_transposed(rows, kQueryBlock, spare + kQueryBlock * kTile, out + d * kQueryBlock);
  }
}

/// sum of a * b over head_dim.
QAT_INLINE float dot(const AttentionWork& w, const void* a, const void* b, int64_t offset) {
  Floats sums = all(0.0f);
  float rest = 0.0f;
  int64_t d = 0;
  if (w.type == DType::bf16) {
    const auto* x = static_cast<const BFloat16*>(a) + offset;
    const auto* y = static_cast<const BFloat16*>(b) + offset;
    for (; d + kLanes <= w.head_dim; d += kLanes) sums = fused(load(x + d), load(y + d), sums);
    for (; d < w.head_dim; ++d) rest += to_float(x[d]) * to_float(y[d]);
  } else {
    const auto* x = static_cast<const float*>(a) + offset;
    const auto* y = static_cast<const float*>(b) + offset;
    for (; d + kLanes <= w.head_dim; d += kLanes) sums = fused(load(x + d), load(y + d), sums);
    for (; d < w.head_dim; ++d) rest += x[d] * y[d];
  }
  return sum(sums) + rest;
}

struct RowTerms {
  float lse2[kQueryBlock];   ///< log sum exp in powers of two
  float delta[kQueryBlock];  ///< rowsum(dO * O)
};

/// P and dS of the rows i, i + 1 into their panels, dS also row major.
QAT_INLINE void weigh_rows(const BlockTemp& t, const Queries& q, const RowTerms& terms,
                           float factor, int64_t k0, int64_t i, bool masked) {
  for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
    Floats p[2], ds[2];
#pragma GCC unroll 2
    for (int64_t r = 0; r < 2; ++r) {
      const int64_t row = i + r, at = row * kKeyBlock + j;
      p[r] = weight_exp2(fused(load(t.scores + at), all(factor), all(-terms.lse2[row])));
      if (masked) {
        const bool real = row < q.rows;
        p[r] = keep_lanes(p[r], real ? q.low[row] - k0 - j : 0,
                          real ? q.start + row + 1 - k0 - j : 0, all(0.0f));
      }
      ds[r] = multiply(p[r], subtract(load(t.dscores + at), all(terms.delta[row])));
      put(t.weights + at, ds[r]);
    }
    const int64_t at = (j / kTile) * kTile * kQueryBlock + i * kTile + j % kTile * kPair;
    put_pair(t.panel_p + at, p[0], p[1]);
    put_pair(t.panel_ds + at, ds[0], ds[1]);
  }
}

/// sums[padded_dim][keys k0..] (+)= left[padded_dim][64] . panels.
QAT_INLINE void add_transposed(const AttentionWork& w, const Element* left, const Element* panels,
                               int64_t k0, float* sums, Start start) {
  const int64_t stride = w.padded_sequence();
  for (int64_t p = 0; p < kKeyBlock / kTile; ++p)
    for (int64_t d = 0; d < w.padded_dim(); d += kTile)
      multiply_tile(left + d * kQueryBlock, kQueryBlock, panels + p * kTile * kQueryBlock,
                    kQueryBlock, sums + d * stride + k0 + p * kTile, stride, start);
}

void backward(const AttentionWork& w, int64_t sequence, int64_t head, std::byte* temp) {
  const TileScope scope;
  const BlockTemp t = cut(w, temp);
  const int64_t kv_head = head / w.group(), depth = depth_of(w), dim = w.padded_dim();
  const Element* keys = packed_copy(w, kBackwardCopies, sequence, kv_head, 0);
  const Element* values = packed_copy(w, kBackwardCopies, sequence, kv_head, 1);
  const Element* key_rows = packed_copy(w, kBackwardCopies, sequence, kv_head, 2);
  float* dk = head_sums(w, sequence, head);
  float* dv = dk + w.packed_count();
  const float factor = w.scale * kLog2E;

  for (int64_t block = 0; block < w.query_blocks(); ++block) {
    const Queries q = queries_of(w, sequence, head, block);
    const LeftRows left_q = left_rows(w, w.q, q, t.rows_a),
                   left_dy = left_rows(w, w.dy, q, t.rows_b);
    transpose_queries(w, w.q, q, t.spare, t.transposed_a);
    transpose_queries(w, w.dy, q, t.spare, t.transposed_b);
    RowTerms terms{};
    for (int64_t i = 0; i < q.rows; ++i) {
      const int64_t token = q.start + i;
      terms.delta[i] = dot(w, w.dy, w.y, offset_of(w, sequence, token, w.heads, head));
      terms.lse2[i] = w.lse[(sequence * w.sequence + token) * w.heads + head] * kLog2E;
    }
    __builtin_memset(t.sums, 0, size_t(kQueryBlock * dim) * sizeof(float));
    for (int64_t k0 = q.lowest / kKeyBlock * kKeyBlock; k0 < q.start + q.rows; k0 += kKeyBlock) {
      multiply_keys(left_q, keys + k0 * depth, depth, t.scores);
      multiply_keys(left_dy, values + k0 * depth, depth, t.dscores);
      const bool masked = is_masked(q, k0);
      for (int64_t i = 0; i < kQueryBlock; i += 2) weigh_rows(t, q, terms, factor, k0, i, masked);
      // Query blocks come in order, and the first to see a key block is the one that starts with
      // it.
      const Start start = q.start == k0 ? Start::zero : Start::add;
      add_transposed(w, t.transposed_b, t.panel_p, k0, dv, start);
      add_transposed(w, t.transposed_a, t.panel_ds, k0, dk, start);
      add_weighted(w, t.weights, key_rows, k0, t.sums);
    }
    for (int64_t i = 0; i < q.rows; ++i)
      put_row(w, t.sums + i * dim, w.scale, w.dq,
              offset_of(w, sequence, q.start + i, w.heads, head));
  }
}

void finish_backward(const AttentionWork& w, int64_t sequence, int64_t kv_head, int64_t block) {
  constexpr int64_t kRowsAtOnce = 32;
  const int64_t dim = w.padded_dim(), stride = w.padded_sequence();
  for (int64_t k0 = block * kKeyBlock; k0 < smaller((block + 1) * kKeyBlock, w.sequence);
       k0 += kRowsAtOnce) {
    const int64_t rows = smaller(kRowsAtOnce, w.sequence - k0);
    for (int64_t which = 0; which < 2; ++which)
      for (int64_t d0 = 0; d0 < dim; d0 += kTile) {
        float sums[kTile][kRowsAtOnce], turned[kRowsAtOnce][kTile];
        for (int64_t d = 0; d < kTile; ++d)
          for (int64_t j = 0; j < kRowsAtOnce; j += kLanes) {
            const int64_t at = which * w.packed_count() + (d0 + d) * stride + k0 + j;
            Floats total = load(head_sums(w, sequence, kv_head * w.group()) + at);
            for (int64_t h = 1; h < w.group(); ++h)
              total = add(total, load(head_sums(w, sequence, kv_head * w.group() + h) + at));
            store(&sums[d][j], total);
          }
        transpose(reinterpret_cast<const Word*>(&sums[0][0]), kRowsAtOnce, kTile, kRowsAtOnce,
                  reinterpret_cast<Word*>(&turned[0][0]), kTile);
        const int64_t cols = smaller(kTile, w.head_dim - d0);
        const float factor = which == 0 ? w.scale : 1.0f;
        for (int64_t j = 0; j < rows; ++j) {
          const int64_t at = offset_of(w, sequence, k0 + j, w.kv_heads, kv_head) + d0;
          void* out = which == 0 ? w.dk : w.dv;
          for (int64_t d = 0; d < cols; ++d) {
            if (w.type == DType::bf16)
              static_cast<BFloat16*>(out)[at + d] = to_bfloat16(turned[j][d] * factor);
            else
              static_cast<float*>(out)[at + d] = turned[j][d] * factor;
          }
        }
      }
  }
}

}  // namespace

const AttentionEngine& QAT_ATTENTION_ENGINE() {
  static constexpr AttentionEngine engine{
      sizeof(Element), temp_bytes, pack_forward, pack_backward, forward, backward, finish_backward};
  return engine;
}

}  // namespace qat::cpu
