// What the attention kernels on tensor cores share: tiles of rows in shared memory and the
// fragments of mma.m16n8k16 made of them. Rows are padded by 16 bytes, so that the eight rows of a
// fragment lie in different banks.
#pragma once

#include "kernels/cuda/lanes.h"

namespace qat::cuda {

inline constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;
inline constexpr int kTileThreads = 128;  // four warps of sixteen rows
inline constexpr int kTileRows = 64;

/// Rows of one head, and the elements from one to the next.
struct HeadRows {
  const BFloat16* rows;
  int64_t stride;
};

/// kRows x kDim elements in shared memory.
template <int kRows, int kDim>
struct Tile {
  static constexpr int kPitch = kDim + 8;
  static constexpr size_t kBytes = size_t(kRows) * kPitch * sizeof(BFloat16);
  BFloat16* at;

  /// Starts to copy rows [first, first + kRows), those from `end` on and columns from head_dim on
  /// as zeros.
  QAT_DEVICE void fetch(const HeadRows& from, int64_t first, int64_t end, int head_dim) const {
    constexpr int kChunks = kDim / 8;
    for (int i = threadIdx.x; i < kRows * kChunks; i += kTileThreads) {
      const int row = i / kChunks, column = i % kChunks * 8;
      const bool valid = first + row < end && column < head_dim;
      const BFloat16* source = valid ? from.rows + (first + row) * from.stride + column : from.rows;
      copy_async(at + row * kPitch + column, source, valid);
    }
  }

  /// Sixteen rows from `row` and sixteen columns from `k`, as a left operand.
  QAT_DEVICE void left(uint32_t (&a)[4], int row, int k) const {
    const int lane = lane_id();
    load_tiles(a, at + (row + lane % 16) * kPitch + k + lane / 16 * 8);
  }
  /// Sixteen rows from `row` as columns of a right operand of depth sixteen from column `k`: two
  /// fragments of eight columns.
  QAT_DEVICE void right_of_rows(uint32_t (&b)[4], int row, int k) const {
    const int lane = lane_id();
    load_tiles(b, at + (row + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8);
  }
  /// Sixteen columns from `column` of a right operand whose depth is the sixteen rows from `row`.
  QAT_DEVICE void right_of_columns(uint32_t (&b)[4], int row, int column) const {
    const int lane = lane_id();
    load_tiles_transposed(b, at + (row + lane % 16) * kPitch + column + lane / 16 * 8);
  }
};

/// Both fragments of a pair of eight columns.
QAT_DEVICE void mma_pair(float (&first)[4], float (&second)[4], const uint32_t (&a)[4],
                         const uint32_t (&b)[4]) {
  const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  mma_bf16(first, a, low);
  mma_bf16(second, a, high);
}

/// sums (16 x 8 * kColumns) += sixteen rows of `left` . rows of `right`, over kDim.
template <int kColumns, int kLeftRows, int kRightRows, int kDim>
QAT_DEVICE void multiply_rows(float (&sums)[kColumns][4], const Tile<kLeftRows, kDim>& left,
                              int row, const Tile<kRightRows, kDim>& right) {
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t a[4];
    left.left(a, row, k);
#pragma unroll
    for (int column = 0; column < kColumns; column += 2) {
      uint32_t b[4];
      right.right_of_rows(b, column * 8, k);
      mma_pair(sums[column], sums[column + 1], a, b);
    }
  }
}

/// sums (16 x kDim) += weights (16 x 8 * kDepth, as bf16) . rows of `right`.
template <int kDepth, int kColumns, int kRows, int kDim>
QAT_DEVICE void multiply_weights(float (&sums)[kColumns][4], const float (&weights)[kDepth][4],
                                 const Tile<kRows, kDim>& right) {
#pragma unroll
  for (int depth = 0; depth < kDepth; depth += 2) {
    const uint32_t a[4] = {pack_bf16(weights[depth][0], weights[depth][1]),
                           pack_bf16(weights[depth][2], weights[depth][3]),
                           pack_bf16(weights[depth + 1][0], weights[depth + 1][1]),
                           pack_bf16(weights[depth + 1][2], weights[depth + 1][3])};
#pragma unroll
    for (int column = 0; column < kColumns; column += 2) {
      uint32_t b[4];
      right.right_of_columns(b, depth * 8, column * 8);
      mma_pair(sums[column], sums[column + 1], a, b);
    }
  }
}

template <int kColumns>
QAT_DEVICE void clear(float (&sums)[kColumns][4]) {
#pragma unroll
  for (int column = 0; column < kColumns; ++column)
    for (int k = 0; k < 4; ++k) sums[column][k] = 0.0f;
}

/// Writes rows of a 16 x kDim fragment times a factor a row: `rows[half]` points to the row of
/// lane / 4 + 8 * half, null where there is none.
template <int kColumns>
QAT_DEVICE void put_rows(const float (&sums)[kColumns][4], BFloat16* const (&rows)[2],
                         const float (&factors)[2], int head_dim) {
  const int pair = lane_id() % 4 * 2;
#pragma unroll
  for (int column = 0; column < kColumns; ++column)
    for (int half = 0; half < 2; ++half) {
      const int d = column * 8 + pair;
      if (rows[half] == nullptr || d >= head_dim) continue;
      *reinterpret_cast<uint32_t*>(rows[half] + d) = pack_bf16(
          sums[column][2 * half] * factors[half], sums[column][2 * half + 1] * factors[half]);
    }
}

/// What one call of attention or of its backward pass works on. Rows of q, y, dq hold heads *
/// head_dim elements, rows of k, v, dk, dv kv_heads * head_dim.
struct AttentionShape {
  const int32_t* first;  ///< null: every sequence is one document
  int64_t sequences, sequence;
  int heads, kv_heads, head_dim;
  float scale;

  QAT_DEVICE int group() const { return heads / kv_heads; }
  QAT_DEVICE int64_t offset(int64_t sequence_index, int head, int all_heads) const {
    return (sequence_index * sequence * all_heads + head) * head_dim;
  }
  /// The first key that a token sees.
  QAT_DEVICE int64_t low(int64_t sequence_index, int64_t token) const {
    return first ? first[sequence_index * sequence + token] : 0;
  }
  /// The first key that any token of [begin, end) sees.
  QAT_DEVICE int64_t lowest(int64_t sequence_index, int64_t begin, int64_t end) const {
    int64_t found = sequence;
    for (int64_t token = begin; token < end; ++token) {
      const int64_t key = low(sequence_index, token);
      found = key < found ? key : found;
    }
    return found;
  }
};

/// The rows of one head of one sequence.
QAT_DEVICE HeadRows head_rows(const AttentionShape& s, const void* data, int64_t index, int head,
                              int heads) {
  return {static_cast<const BFloat16*>(data) + s.offset(index, head, heads),
          int64_t(heads) * s.head_dim};
}

template <class Args>
AttentionShape attention_shape(const Args& args) {
  const int64_t tokens = args.q_THD.count() / (int64_t(args.heads) * args.head_dim);
  return {args.first_T.template as<int32_t>(),
          tokens / args.sequence,
          args.sequence,
          args.heads,
          args.kv_heads,
          args.head_dim,
          args.scale};
}

/// True if the tensor cores' kernels take these: bf16 heads of up to 128 elements, in eights.
template <class... Views>
bool fits_tiles(DType type, int head_dim, const Views&... views) {
  return type == DType::bf16 && head_dim <= 128 && fits_wide(head_dim, views.data...);
}

}  // namespace qat::cuda
