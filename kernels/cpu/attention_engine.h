// What the attention kernels share: the blocking, the layout of scratch, and the parts compiled for
// each instruction set.
#pragma once

#include "kernels/kernels.h"

namespace qat::cpu {

inline constexpr int64_t kQueryBlock = 64;
inline constexpr int64_t kKeyBlock = 128;

/// One call of attention or of its backward pass. Rows of q, y, dq hold heads * head_dim elements,
/// rows of k, v, dk, dv kv_heads * head_dim.
struct AttentionWork {
  DType type;
  const void *q, *k, *v, *y, *dy;
  const int32_t* first;  ///< null: every sequence is one document
  float* lse;
  void *out, *dq, *dk, *dv;
  int64_t heads, kv_heads, head_dim, sequences, sequence;
  float scale;
  std::byte* scratch;

  int64_t group() const { return heads / kv_heads; }
  int64_t padded_dim() const { return (head_dim + 31) / 32 * 32; }
  int64_t padded_sequence() const { return (sequence + kKeyBlock - 1) / kKeyBlock * kKeyBlock; }
  int64_t query_blocks() const { return (sequence + kQueryBlock - 1) / kQueryBlock; }
  int64_t key_blocks() const { return padded_sequence() / kKeyBlock; }
  /// Elements of one packed copy of the keys (or values) of one key/value head.
  int64_t packed_count() const { return padded_sequence() * padded_dim(); }
};

/// Packed copies a key/value head: forward k by columns, v by rows; backward k and v by columns, k
/// by rows. See gemm_tiles.h for the two layouts.
inline constexpr int64_t kForwardCopies = 2, kBackwardCopies = 3;

struct AttentionEngine {
  int64_t element_bytes;
  /// Memory of the running thread that forward and backward need.
  size_t (*temp_bytes)(const AttentionWork&);
  /// Packs one key block of one key/value head of one sequence.
  void (*pack_forward)(const AttentionWork&, int64_t sequence, int64_t kv_head, int64_t block,
                       std::byte* temp);
  void (*pack_backward)(const AttentionWork&, int64_t sequence, int64_t kv_head, int64_t block,
                        std::byte* temp);
  /// y and lse of one block of queries.
  void (*forward)(const AttentionWork&, int64_t sequence, int64_t head, int64_t block,
                  std::byte* temp);
  /// dq of one head, and its part of dk and dv into scratch (f32,
  /// [2][padded_dim][padded_sequence]).
  void (*backward)(const AttentionWork&, int64_t sequence, int64_t head, std::byte* temp);
  /// dk and dv of one key block: the parts of the group's heads summed in their order.
  void (*finish_backward)(const AttentionWork&, int64_t sequence, int64_t kv_head, int64_t block);
};

const AttentionEngine& attention_engine_sse2();
const AttentionEngine& attention_engine_avx2();
const AttentionEngine& attention_engine_avx512();
const AttentionEngine& attention_engine_bf16();
const AttentionEngine& attention_engine_amx();

/// The best engine of this processor for activations of `type`.
const AttentionEngine& attention_engine_for(DType type);

}  // namespace qat::cpu
