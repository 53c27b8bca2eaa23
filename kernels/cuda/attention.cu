// Causal attention with grouped heads and documents, forward. On tensor cores (bf16, heads of up to
// 128 elements) a block takes 64 queries of a head against 64 keys at a time, with running row
// maximum m and sum l, the next keys and values on their way meanwhile:
//   S = Q Kᵀ;  P = 2^(S * scale * log2(e) - m);  O = O * 2^(m_old - m) + P V
// q, y and lse are touched once; k and v are read once a block of queries that sees them. Other
// types and sizes take a warp a query, in f32.
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/cuda_kernels.h"

namespace qat::cuda {
namespace {

struct Forward {
  AttentionShape shape;
  const void *q, *k, *v;
  void* y;
  float* lse;
};

/// Largest of the four lanes that share a row of a fragment.
template <class Combine>
QAT_DEVICE float over_row(float value, Combine combine) {
  value = combine(value, __shfl_xor_sync(kAllLanes, value, 1));
  return combine(value, __shfl_xor_sync(kAllLanes, value, 2));
}

template <int kDim>
__global__ void __launch_bounds__(kTileThreads) attend_tiles(Forward job) {
  using Rows = Tile<kTileRows, kDim>;
  constexpr int kKeyColumns = kTileRows / 8, kDimColumns = kDim / 8;
  const AttentionShape& s = job.shape;
  const int head = int(blockIdx.x) % s.heads, kv_head = head / s.group();
  const int64_t index = blockIdx.x / unsigned(s.heads);
  const int64_t start = int64_t(gridDim.y - 1 - blockIdx.y) * kTileRows;  // the longest first
  std::byte* memory = dynamic_shared();
  const auto tile = [&](int i) {
    return Rows{reinterpret_cast<BFloat16*>(memory + size_t(i) * Rows::kBytes)};
  };
  const Rows queries = tile(0);
  const HeadRows q = head_rows(s, job.q, index, head, s.heads);
  const HeadRows k = head_rows(s, job.k, index, kv_head, s.kv_heads);
  const HeadRows v = head_rows(s, job.v, index, kv_head, s.kv_heads);

  // The keys that any of these queries sees.
  const int64_t end = start + kTileRows < s.sequence ? start + kTileRows : s.sequence;
  const int64_t lowest = s.lowest(index, start, end);
  const int64_t first_key = lowest / kTileRows * kTileRows;
  const int turns = int((end - first_key + kTileRows - 1) / kTileRows);
  const auto fetch_keys = [&](int turn) {
    const int64_t from = first_key + int64_t(turn) * kTileRows;
    tile(1 + turn % 2 * 2).fetch(k, from, s.sequence, s.head_dim);
    tile(2 + turn % 2 * 2).fetch(v, from, s.sequence, s.head_dim);
    commit_copies();
  };
  queries.fetch(q, start, s.sequence, s.head_dim);
  fetch_keys(0);

  const int row = warp_id() * 16, pair = lane_id() % 4 * 2;
  int64_t token[2], low[2];
  for (int half = 0; half < 2; ++half) {
    token[half] = start + row + lane_id() / 4 + 8 * half;
    low[half] = token[half] < s.sequence ? s.low(index, token[half]) : s.sequence;
  }
  const float factor = s.scale * kLog2E;
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  float sums[kDimColumns][4];
  clear(sums);
  for (int turn = 0; turn < turns; ++turn) {
    if (turn + 1 < turns)
      fetch_keys(turn + 1);
    else
      commit_copies();  // an empty group, so that one may always be left open
    wait_copies<1>();
    __syncthreads();
    float scores[kKeyColumns][4];
    clear(scores);
    multiply_rows(scores, queries, row, tile(1 + turn % 2 * 2));
    const int64_t k0 = first_key + int64_t(turn) * kTileRows;
    float found[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int column = 0; column < kKeyColumns; ++column)
      for (int i = 0; i < 4; ++i) {
        const int64_t key = k0 + column * 8 + pair + i % 2;
        if (key > token[i / 2] || key < low[i / 2]) scores[column][i] = -INFINITY;
        found[i / 2] = scores[column][i] > found[i / 2] ? scores[column][i] : found[i / 2];
      }
    float shift[2], added[2] = {0.0f, 0.0f};
    for (int half = 0; half < 2; ++half) {
      const float largest = over_row(found[half], Largest{}) * factor;
      const float now = largest > top[half] ? largest : top[half];
      shift[half] = now == -INFINITY ? 0.0f : now;  // nothing seen yet: weights are 2^-inf
      const float shrink = exp2f(top[half] - shift[half]);
      total[half] *= shrink;
#pragma unroll
      for (int column = 0; column < kDimColumns; ++column)
        for (int i = 0; i < 2; ++i) sums[column][2 * half + i] *= shrink;
      top[half] = now;
    }
#pragma unroll
    for (int column = 0; column < kKeyColumns; ++column)
      for (int i = 0; i < 4; ++i) {
        scores[column][i] = exp2f(fmaf(scores[column][i], factor, -shift[i / 2]));
        added[i / 2] += scores[column][i];
      }
    for (int half = 0; half < 2; ++half) total[half] += over_row(added[half], Sum{});
    multiply_weights<kKeyColumns>(sums, scores, tile(2 + turn % 2 * 2));
    __syncthreads();  // the next keys but one go where these lie
  }
  BFloat16* rows[2];
  float inverse[2];
  for (int half = 0; half < 2; ++half) {
    const bool real = token[half] < s.sequence;
    const int64_t at = s.offset(index, head, s.heads) + token[half] * q.stride;
    rows[half] = real ? static_cast<BFloat16*>(job.y) + at : nullptr;
    inverse[half] = 1.0f / total[half];
    if (real && lane_id() % 4 == 0)
      job.lse[(index * s.sequence + token[half]) * s.heads + head] =
          (top[half] + log2f(total[half])) * kLn2;
  }
  put_rows(sums, rows, inverse, s.head_dim);
}

constexpr int kMostDim = 256;
constexpr int kDimsALane = kMostDim / kWarp;

/// A warp a query: each lane weighs one of 32 keys, then all add their values up.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) attend_rows(Forward job) {
  const AttentionShape& s = job.shape;
  const int64_t rows = s.sequences * s.sequence * s.heads;
  const int64_t wanted = int64_t(blockIdx.x) * (kBlockThreads / kWarp) + warp_id();
  const int64_t row = wanted < rows ? wanted : 0;
  const int head = int(row % s.heads), lane = lane_id(), dim = s.head_dim;
  const int64_t token = row / s.heads % s.sequence, index = row / s.heads / s.sequence;
  const int64_t stride = int64_t(s.kv_heads) * dim;
  const T* q = static_cast<const T*>(job.q) + row * dim;
  const int64_t kv_offset = s.offset(index, head / s.group(), s.kv_heads);
  const T* k = static_cast<const T*>(job.k) + kv_offset;
  const T* v = static_cast<const T*>(job.v) + kv_offset;
  const float factor = s.scale * kLog2E;
  const Team warp{kWarp};
  float top = -INFINITY, total = 0.0f, sums[kDimsALane] = {};
  for (int64_t k0 = s.low(index, token); k0 <= token; k0 += kWarp) {
    const int64_t key = k0 + lane;
    float score = -INFINITY;
    if (key <= token) {
      float dot = 0.0f;
      for (int d = 0; d < dim; ++d) dot = fmaf(to_float(q[d]), to_float(k[key * stride + d]), dot);
      score = dot * factor;
    }
    const float largest = warp.reduce(score, Largest{});
    const float now = largest > top ? largest : top;
    const float shift = now == -INFINITY ? 0.0f : now;
    const float shrink = exp2f(top - shift), weight = exp2f(score - shift);
    total = total * shrink + warp.reduce(weight, Sum{});
    top = now;
    for (int i = 0; i < kDimsALane; ++i) sums[i] *= shrink;
    for (int j = 0; j < kWarp; ++j) {
      const float by = __shfl_sync(kAllLanes, weight, j);
      if (k0 + j > token) continue;
      for (int i = 0; i < kDimsALane; ++i)
        if (lane + i * kWarp < dim)
          sums[i] = fmaf(by, to_float(v[(k0 + j) * stride + lane + i * kWarp]), sums[i]);
    }
  }
  if (wanted >= rows) return;
  T* y = static_cast<T*>(job.y) + row * dim;
  for (int i = 0; i < kDimsALane; ++i)
    if (lane + i * kWarp < dim) y[lane + i * kWarp] = narrow<T>(sums[i] / total);
  if (lane == 0) job.lse[row] = (top + log2f(total)) * kLn2;
}

template <int kDim>
void launch_tiles(const Forward& job, Stream& stream) {
  const AttentionShape& s = job.shape;
  launch(attend_tiles<kDim>, Blocks{s.sequences * s.heads, divided_up(s.sequence, kTileRows)},
         kTileThreads, 5 * Tile<kTileRows, kDim>::kBytes, stream, job);
}

}  // namespace

void attention(const Attention& args, Stream& stream) {
  const Forward job{attention_shape(args), args.q_THD.data, args.k_TGD.data,
                    args.v_TGD.data,       args.y_THD.data, args.lse_TH.as<float>()};
  const DType type = args.q_THD.dtype;
  if (fits_tiles(type, args.head_dim, args.q_THD, args.k_TGD, args.v_TGD, args.y_THD)) {
    if (args.head_dim <= 64)
      launch_tiles<64>(job, stream);
    else
      launch_tiles<128>(job, stream);
    return;
  }
  if (args.head_dim > kMostDim)
    throw std::logic_error("attention: heads of " + std::to_string(args.head_dim) +
                           " elements; the CUDA kernels take up to 256");
  const int64_t rows = job.shape.sequences * job.shape.sequence * args.heads;
  with_float(type, [&](auto zero) {
    launch(attend_rows<decltype(zero)>, Blocks{divided_up(rows, kBlockThreads / kWarp)},
           kBlockThreads, 0, stream, job);
  });
}

}  // namespace qat::cuda
