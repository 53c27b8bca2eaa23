// The gradient of attention. With P = exp(S * scale - lse) and delta = rowsum(dO * O):
//   dP = dO Vᵀ;  dS = P * (dP - delta);  dQ = dS K * scale;  dK = dSᵀ Q * scale;  dV = Pᵀ dO
// Three launches: delta; dK and dV, where a block takes 64 keys and goes through the queries of all
// heads that share them, in order; dQ, where a block takes 64 queries and goes through their keys.
// S and dP are computed in both of the last two: two products more of seven, and no sum needs
// atomic additions or memory for parts. Other types and sizes take a warp a row, in f32.
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/cuda_kernels.h"

namespace qat::cuda {
namespace {

constexpr int kQueryRows = 32;  // queries against a block of keys: fewer, for registers

struct Backward {
  AttentionShape shape;
  const void *q, *k, *v, *y, *dy;
  const float* lse;
  float* delta;  ///< [tokens, heads]
  void *dq, *dk, *dv;
};

/// delta: a team a row of dy and y.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    dot_outputs(const T* dy, const T* y, float* delta, int64_t rows, int dim) {
  const int64_t row = int64_t(blockIdx.x) * (kBlockThreads / kWarp) + warp_id();
  const int64_t start = (row < rows ? row : 0) * dim;
  float sum = 0.0f;
  for (int d = lane_id(); d < dim; d += kWarp)
    sum = fmaf(to_float(dy[start + d]), to_float(y[start + d]), sum);
  sum = Team{kWarp}.reduce(sum, Sum{});
  if (row < rows && lane_id() == 0) delta[row] = sum;
}

template <int kDim>
__global__ void __launch_bounds__(kTileThreads) gradients_of_keys(Backward job) {
  using Keys = Tile<kTileRows, kDim>;
  using Queries = Tile<kQueryRows, kDim>;
  constexpr int kQueryColumns = kQueryRows / 8, kDimColumns = kDim / 8;
  __shared__ float lse2[kQueryRows], delta[kQueryRows];
  __shared__ int64_t low[kQueryRows];
  const AttentionShape& s = job.shape;
  const int kv_head = int(blockIdx.x) % s.kv_heads;
  const int64_t index = blockIdx.x / unsigned(s.kv_heads);
  const int64_t k0 = int64_t(blockIdx.y) * kTileRows;  // the first keys are seen most
  std::byte* memory = dynamic_shared();
  const auto place = [&](size_t bytes) { return reinterpret_cast<BFloat16*>(memory + bytes); };
  const Keys keys{place(0)}, values{place(Keys::kBytes)};
  const Queries queries{place(2 * Keys::kBytes)};
  const Queries upstream{place(2 * Keys::kBytes + Queries::kBytes)};
  keys.fetch(head_rows(s, job.k, index, kv_head, s.kv_heads), k0, s.sequence, s.head_dim);
  values.fetch(head_rows(s, job.v, index, kv_head, s.kv_heads), k0, s.sequence, s.head_dim);
  commit_copies();
  const int row = warp_id() * 16, pair = lane_id() % 4 * 2;
  const float factor = s.scale * kLog2E;
  float dk[kDimColumns][4], dv[kDimColumns][4];
  clear(dk);
  clear(dv);
  for (int member = 0; member < s.group(); ++member) {
    const int head = kv_head * s.group() + member;
    const HeadRows q = head_rows(s, job.q, index, head, s.heads);
    const HeadRows dy = head_rows(s, job.dy, index, head, s.heads);
    for (int64_t q0 = k0; q0 < s.sequence; q0 += kQueryRows) {
      __syncthreads();  // the queries before these were read
      int seen = 0;
      if (threadIdx.x < kQueryRows) {
        const int64_t token = q0 + threadIdx.x;
        const bool real = token < s.sequence;
        const int64_t at = (index * s.sequence + token) * s.heads + head;
        low[threadIdx.x] = real ? s.low(index, token) : s.sequence;
        lse2[threadIdx.x] = real ? job.lse[at] * kLog2E : 0.0f;
        delta[threadIdx.x] = real ? job.delta[at] : 0.0f;
        seen = int(low[threadIdx.x] < k0 + kTileRows);
      }
      if (!__syncthreads_or(seen)) continue;  // of later documents
      queries.fetch(q, q0, s.sequence, s.head_dim);
      upstream.fetch(dy, q0, s.sequence, s.head_dim);
      commit_copies();
      wait_copies<0>();
      __syncthreads();
      float weights[kQueryColumns][4], slopes[kQueryColumns][4];
      clear(weights);
      clear(slopes);
      multiply_rows(weights, keys, row, queries);
      multiply_rows(slopes, values, row, upstream);
#pragma unroll
      for (int column = 0; column < kQueryColumns; ++column)
        for (int i = 0; i < 4; ++i) {
          const int at = column * 8 + pair + i % 2;
          const int64_t key = k0 + row + lane_id() / 4 + i / 2 * 8;
          const bool sees = key <= q0 + at && key >= low[at];
          const float p = sees ? exp2f(fmaf(weights[column][i], factor, -lse2[at])) : 0.0f;
          weights[column][i] = p;
          slopes[column][i] = p * (slopes[column][i] - delta[at]);
        }
      multiply_weights<kQueryColumns>(dv, weights, upstream);
      multiply_weights<kQueryColumns>(dk, slopes, queries);
    }
  }
  const int64_t stride = int64_t(s.kv_heads) * s.head_dim;
  BFloat16 *dk_rows[2], *dv_rows[2];
  for (int half = 0; half < 2; ++half) {
    const int64_t key = k0 + row + lane_id() / 4 + half * 8;
    const int64_t at = s.offset(index, kv_head, s.kv_heads) + key * stride;
    const bool real = key < s.sequence;
    dk_rows[half] = real ? static_cast<BFloat16*>(job.dk) + at : nullptr;
    dv_rows[half] = real ? static_cast<BFloat16*>(job.dv) + at : nullptr;
  }
  const float scales[2] = {s.scale, s.scale}, ones[2] = {1.0f, 1.0f};
  put_rows(dk, dk_rows, scales, s.head_dim);
  put_rows(dv, dv_rows, ones, s.head_dim);
  wait_copies<0>();
}

template <int kDim>
__global__ void __launch_bounds__(kTileThreads) gradients_of_queries(Backward job) {
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
  const Rows queries = tile(0), upstream = tile(1), keys = tile(2), values = tile(3);
  const HeadRows k = head_rows(s, job.k, index, kv_head, s.kv_heads);
  const HeadRows v = head_rows(s, job.v, index, kv_head, s.kv_heads);
  queries.fetch(head_rows(s, job.q, index, head, s.heads), start, s.sequence, s.head_dim);
  upstream.fetch(head_rows(s, job.dy, index, head, s.heads), start, s.sequence, s.head_dim);
  commit_copies();
  const int64_t end = start + kTileRows < s.sequence ? start + kTileRows : s.sequence;
  const int64_t lowest = s.lowest(index, start, end);
  const int row = warp_id() * 16, pair = lane_id() % 4 * 2;
  int64_t token[2], low[2];
  float lse2[2], delta[2];
  for (int half = 0; half < 2; ++half) {
    token[half] = start + row + lane_id() / 4 + 8 * half;
    const bool real = token[half] < s.sequence;
    const int64_t at = (index * s.sequence + token[half]) * s.heads + head;
    low[half] = real ? s.low(index, token[half]) : s.sequence;
    lse2[half] = real ? job.lse[at] * kLog2E : 0.0f;
    delta[half] = real ? job.delta[at] : 0.0f;
  }
  const float factor = s.scale * kLog2E;
  float dq[kDimColumns][4];
  clear(dq);
  for (int64_t k0 = lowest / kTileRows * kTileRows; k0 < end; k0 += kTileRows) {
    __syncthreads();  // the keys before these were read
    keys.fetch(k, k0, s.sequence, s.head_dim);
    values.fetch(v, k0, s.sequence, s.head_dim);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    float slopes[kKeyColumns][4], weights[kKeyColumns][4];
    clear(slopes);
    clear(weights);
    multiply_rows(weights, queries, row, keys);
    multiply_rows(slopes, upstream, row, values);
#pragma unroll
    for (int column = 0; column < kKeyColumns; ++column)
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2;
        const int64_t key = k0 + column * 8 + pair + i % 2;
        const bool sees = key <= token[half] && key >= low[half];
        const float p = sees ? exp2f(fmaf(weights[column][i], factor, -lse2[half])) : 0.0f;
        slopes[column][i] = p * (slopes[column][i] - delta[half]);
      }
    multiply_weights<kKeyColumns>(dq, slopes, keys);
  }
  BFloat16* rows[2];
  for (int half = 0; half < 2; ++half) {
    const int64_t at = s.offset(index, head, s.heads) + token[half] * int64_t(s.heads) * s.head_dim;
    rows[half] = token[half] < s.sequence ? static_cast<BFloat16*>(job.dq) + at : nullptr;
  }
  const float scales[2] = {s.scale, s.scale};
  put_rows(dq, rows, scales, s.head_dim);
}

constexpr int kMostDim = 256;
constexpr int kDimsALane = kMostDim / kWarp;

template <class T>
QAT_DEVICE float dot(const T* a, const T* b, int dim) {
  float sum = 0.0f;
  for (int d = 0; d < dim; ++d) sum = fmaf(to_float(a[d]), to_float(b[d]), sum);
  return sum;
}

/// sums += sum over lanes j < count of weight_j * row j of `rows`.
template <class T>
QAT_DEVICE void add_rows(float (&sums)[kDimsALane], float weight, const T* rows, int64_t stride,
                         int64_t count, int dim) {
  for (int j = 0; j < kWarp; ++j) {
    const float by = __shfl_sync(kAllLanes, weight, j);
    if (j >= count) continue;
    for (int i = 0; i < kDimsALane; ++i)
      if (lane_id() + i * kWarp < dim)
        sums[i] = fmaf(by, to_float(rows[j * stride + lane_id() + i * kWarp]), sums[i]);
  }
}

template <class T>
QAT_DEVICE void put_row(T* out, const float (&sums)[kDimsALane], float factor, int dim) {
  for (int i = 0; i < kDimsALane; ++i)
    if (lane_id() + i * kWarp < dim) out[lane_id() + i * kWarp] = narrow<T>(sums[i] * factor);
}

/// dQ, a warp a query: each lane weighs one of 32 keys.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) gradient_of_query_rows(Backward job) {
  const AttentionShape& s = job.shape;
  const int64_t rows = s.sequences * s.sequence * s.heads;
  const int64_t wanted = int64_t(blockIdx.x) * (kBlockThreads / kWarp) + warp_id();
  const int64_t row = wanted < rows ? wanted : 0;
  const int head = int(row % s.heads), dim = s.head_dim;
  const int64_t token = row / s.heads % s.sequence, index = row / s.heads / s.sequence;
  const int64_t stride = int64_t(s.kv_heads) * dim;
  const int64_t kv_offset = s.offset(index, head / s.group(), s.kv_heads);
  const T* q = static_cast<const T*>(job.q) + row * dim;
  const T* dy = static_cast<const T*>(job.dy) + row * dim;
  const T* k = static_cast<const T*>(job.k) + kv_offset;
  const T* v = static_cast<const T*>(job.v) + kv_offset;
  float dq[kDimsALane] = {};
  for (int64_t k0 = s.low(index, token); k0 <= token; k0 += kWarp) {
    const int64_t key = k0 + lane_id();
    float slope = 0.0f;
    if (key <= token) {
      const float score = dot(q, k + key * stride, dim) * s.scale;
      slope = expf(score - job.lse[row]) * (dot(dy, v + key * stride, dim) - job.delta[row]);
    }
    add_rows(dq, slope, k + k0 * stride, stride, token + 1 - k0, dim);
  }
  if (wanted < rows) put_row(static_cast<T*>(job.dq) + row * dim, dq, s.scale, dim);
}

/// dK and dV, a warp a key: each lane weighs one of 32 queries.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) gradient_of_key_rows(Backward job) {
  const AttentionShape& s = job.shape;
  const int64_t rows = s.sequences * s.sequence * s.kv_heads;
  const int64_t wanted = int64_t(blockIdx.x) * (kBlockThreads / kWarp) + warp_id();
  const int64_t row = wanted < rows ? wanted : 0;
  const int kv_head = int(row % s.kv_heads), dim = s.head_dim;
  const int64_t key = row / s.kv_heads % s.sequence, index = row / s.kv_heads / s.sequence;
  const int64_t stride = int64_t(s.heads) * dim;
  const T* k = static_cast<const T*>(job.k) + row * dim;
  const T* v = static_cast<const T*>(job.v) + row * dim;
  float dk[kDimsALane] = {}, dv[kDimsALane] = {};
  for (int member = 0; member < s.group(); ++member) {
    const int head = kv_head * s.group() + member;
    const T* q = static_cast<const T*>(job.q) + s.offset(index, head, s.heads);
    const T* dy = static_cast<const T*>(job.dy) + s.offset(index, head, s.heads);
    for (int64_t q0 = key; q0 < s.sequence; q0 += kWarp) {
      const int64_t token = q0 + lane_id();
      float weight = 0.0f, slope = 0.0f;
      if (token < s.sequence && s.low(index, token) <= key) {
        const int64_t at = (index * s.sequence + token) * s.heads + head;
        weight = expf(dot(q + token * stride, k, dim) * s.scale - job.lse[at]);
        slope = weight * (dot(dy + token * stride, v, dim) - job.delta[at]);
      }
      add_rows(dv, weight, dy + q0 * stride, stride, s.sequence - q0, dim);
      add_rows(dk, slope, q + q0 * stride, stride, s.sequence - q0, dim);
    }
  }
  if (wanted >= rows) return;
  put_row(static_cast<T*>(job.dk) + row * dim, dk, s.scale, dim);
  put_row(static_cast<T*>(job.dv) + row * dim, dv, 1.0f, dim);
}

template <int kDim>
void launch_tiles(const Backward& job, Stream& stream) {
  using Keys = Tile<kTileRows, kDim>;
  using Queries = Tile<kQueryRows, kDim>;
  const AttentionShape& s = job.shape;
  const int64_t blocks = divided_up(s.sequence, kTileRows);
  launch(gradients_of_keys<kDim>, Blocks{s.sequences * s.kv_heads, blocks}, kTileThreads,
         2 * Keys::kBytes + 2 * Queries::kBytes, stream, job);
  launch(gradients_of_queries<kDim>, Blocks{s.sequences * s.heads, blocks}, kTileThreads,
         4 * Keys::kBytes, stream, job);
}

}  // namespace

size_t attention_backward_scratch_bytes(const AttentionBackward& args) {
  return size_t(args.q_THD.count() / args.head_dim) * sizeof(float);
}

void attention_backward(const AttentionBackward& args, Stream& stream) {
  const Backward job{attention_shape(args),   args.q_THD.data,          args.k_TGD.data,
                     args.v_TGD.data,         args.y_THD.data,          args.dy_THD.data,
                     args.lse_TH.as<float>(), args.scratch.as<float>(), args.dq_THD.data,
                     args.dk_TGD.data,        args.dv_TGD.data};
  const DType type = args.q_THD.dtype;
  const AttentionShape& s = job.shape;
  const int64_t rows = s.sequences * s.sequence * s.heads;
  constexpr int kRowsABlock = kBlockThreads / kWarp;
  if (args.head_dim > kMostDim)
    throw std::logic_error("attention_backward: heads of " + std::to_string(args.head_dim) +
                           " elements; the CUDA kernels take up to 256");
  with_float(type, [&](auto zero) {
    using T = decltype(zero);
    launch(dot_outputs<T>, Blocks{divided_up(rows, kRowsABlock)}, kBlockThreads, 0, stream,
           args.dy_THD.as<T>(), args.y_THD.as<T>(), job.delta, rows, args.head_dim);
  });
  if (fits_tiles(type, args.head_dim, args.q_THD, args.k_TGD, args.v_TGD, args.dy_THD, args.dq_THD,
                 args.dk_TGD, args.dv_TGD)) {
    if (args.head_dim <= 64)
      launch_tiles<64>(job, stream);
    else
      launch_tiles<128>(job, stream);
    return;
  }
  with_float(type, [&](auto zero) {
    using T = decltype(zero);
    launch(gradient_of_key_rows<T>,
           Blocks{divided_up(s.sequences * s.sequence * s.kv_heads, kRowsABlock)}, kBlockThreads, 0,
           stream, job);
    launch(gradient_of_query_rows<T>, Blocks{divided_up(rows, kRowsABlock)}, kBlockThreads, 0,
           stream, job);
  });
}

}  // namespace qat::cuda
