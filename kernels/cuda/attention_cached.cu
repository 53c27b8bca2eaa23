// Attention of new tokens over a cache, for generation, in f32. New rows are put behind those the
// cache holds, on its grid by the very kernel of training; then a block takes a token and head,
// 128 keys at a time. How many tokens the cache holds is read on the device. Reads the caches once
// a token and head (heads that share keys find them in the L2 cache).
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kKeys = 128;  // weighed at a time
constexpr int kMostDim = 256;

/// Rows of a cache: numbers, or codes with their scales.
struct CacheRows {
  std::byte* data;
  std::byte* scale;
  int8_t* zero;  ///< null: 0
  DType type, scale_type;
  int64_t width, scales, group;  ///< elements and scales of a row, elements that share one

  QAT_DEVICE float scale_at(int64_t i) const {
    if (scale_type == DType::f32) return reinterpret_cast<const float*>(scale)[i];
    if (scale_type == DType::bf16) return to_float(reinterpret_cast<const BFloat16*>(scale)[i]);
    return to_float(reinterpret_cast<const Float16*>(scale)[i]);
  }
  QAT_DEVICE float at(int64_t row, int64_t column) const {
    const int64_t i = row * width + column;
    if (type == DType::f32) return reinterpret_cast<const float*>(data)[i];
    if (type == DType::bf16) return to_float(reinterpret_cast<const BFloat16*>(data)[i]);
    const int64_t grid = row * scales + column / group;
    int code = 0;
    if (type == DType::u8) {
      const auto byte = uint8_t(data[i / 2]);
      code = i % 2 ? high_int4(byte) : low_int4(byte);
    } else {
      code = reinterpret_cast<const int8_t*>(data)[i];
    }
    return (float(code) - (zero ? float(zero[grid]) : 0.0f)) * scale_at(grid);
  }
};

CacheRows rows_of(const AttentionCached& args, const View& cache, const View& scale,
                  const View& zero) {
  CacheRows rows{};
  rows.data = cache.data;
  rows.type = cache.dtype;
  rows.width = args.k_TGD.cols();
  rows.scale = scale.data;
  rows.scale_type = scale.dtype;
  rows.scales = scale ? scale.cols() : 1;
  rows.group = rows.width / rows.scales;
  rows.zero = zero ? zero.as<int8_t>() : nullptr;
  return rows;
}

template <class T>
struct AppendRun {
  const T* x;
  CacheRows to;
  const int32_t* length;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    for (int k = 0; k < kWidth; ++k) {
      const int64_t at = int64_t(*length) * to.width + i + k;
      if (to.type == DType::f32)
        reinterpret_cast<float*>(to.data)[at] = to_float(x[i + k]);
      else
        reinterpret_cast<BFloat16*>(to.data)[at] = to_bfloat16(to_float(x[i + k]));
    }
  }
};

/// i counts pairs of codes; a row holds whole pairs.
struct AppendCodesRun {
  const int8_t* codes;
  CacheRows to;
  const int32_t* length;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    for (int k = 0; k < kWidth; ++k) {
      const int64_t from = 2 * (i + k), at = int64_t(*length) * to.width + from;
      if (to.type == DType::u8) {
        to.data[at / 2] = std::byte(pack_int4(codes[from], codes[from + 1]));
      } else {
        reinterpret_cast<int8_t*>(to.data)[at] = codes[from];
        reinterpret_cast<int8_t*>(to.data)[at + 1] = codes[from + 1];
      }
    }
  }
};

struct AppendScalesRun {
  const float *scale, *zero;
  CacheRows to;
  const int32_t* length;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    for (int k = 0; k < kWidth; ++k) {
      const int64_t at = int64_t(*length) * to.scales + i + k;
      const float value = scale[i + k];
      if (to.scale_type == DType::f32)
        reinterpret_cast<float*>(to.scale)[at] = value;
      else if (to.scale_type == DType::bf16)
        reinterpret_cast<BFloat16*>(to.scale)[at] = to_bfloat16(value);
      else
        reinterpret_cast<Float16*>(to.scale)[at] = to_float16(value);
      if (to.zero) to.zero[at] = int8_t(zero[i + k]);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    attend_cached(const T* q, T* y, CacheRows keys, CacheRows values, const int32_t* length,
                  int heads, int kv_heads, int dim, float scale) {
  __shared__ float query[kMostDim], weights[kKeys], found[kWarps], added[kWarps];
  const int thread = int(threadIdx.x), lane = lane_id();
  const Team eight{8};  // lanes a key
  const int64_t row = blockIdx.x, token = row / heads;
  const int head = int(row % heads);
  const int64_t column = int64_t(head / (heads / kv_heads)) * dim;
  const int64_t seen = int64_t(*length) + token + 1;
  for (int d = thread; d < dim; d += kThreads) query[d] = to_float(q[row * dim + d]);
  const float factor = scale * kLog2E;
  const Team warp{kWarp};
  float top = -INFINITY, total = 0.0f, sums[kMostDim / kThreads] = {};
  for (int64_t start = 0; start < seen; start += kKeys) {
    const int count = int(seen - start < kKeys ? seen - start : kKeys);
    __syncthreads();  // the query is there, the weights before these were used
    for (int j = eight.index(); j < kKeys; j += kThreads / eight.size) {
      float dot = 0.0f;
      if (j < count)
        for (int d = eight.rank(); d < dim; d += eight.size)
          dot = fmaf(query[d], keys.at(start + j, column + d), dot);
      dot = eight.reduce(dot, Sum{});
      if (eight.rank() == 0) weights[j] = j < count ? dot * factor : -INFINITY;
    }
    __syncthreads();
    const float score = weights[thread];
    const float mine = warp.reduce(score, Largest{});
    if (lane == 0) found[warp_id()] = mine;
    __syncthreads();
    float now = top;
    for (int w = 0; w < kWarps; ++w) now = found[w] > now ? found[w] : now;
    // Scores that are all NaN leave no maximum; they are NaN in the sum all the same.
    const float shift = now == -INFINITY ? 0.0f : now;
    const float weight = exp2f(score - shift), part = warp.reduce(weight, Sum{});
    weights[thread] = weight;
    if (lane == 0) added[warp_id()] = part;
    __syncthreads();
    const float shrink = exp2f(top - shift);
    total *= shrink;
    for (int w = 0; w < kWarps; ++w) total += added[w];
    for (int i = 0; i < kMostDim / kThreads; ++i) {
      const int d = thread + i * kThreads;
      if (d >= dim) continue;
      float sum = sums[i] * shrink;
      for (int j = 0; j < count; ++j) sum = fmaf(weights[j], values.at(start + j, column + d), sum);
      sums[i] = sum;
    }
    top = now;
  }
  for (int i = 0; i < kMostDim / kThreads; ++i)
    if (thread + i * kThreads < dim)
      y[row * dim + thread + i * kThreads] = narrow<T>(sums[i] * (1.0f / total));
}
static_assert(kKeys == kThreads);

int64_t new_scales(const AttentionCached& args) {
  return args.k_TGD.rows() * args.k_scale.cols();
}

void append(const ConstView& x, const CacheRows& to, const AttentionCached& args, Stream& stream) {
  const auto* length = args.length.as<int32_t>();
  if (!args.k_scale) {
    with_float(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      elementwise(stream, x.count(), false, AppendRun<T>{x.as<T>(), to, length});
    });
    return;
  }
  const int64_t scales = new_scales(args);
  float* scale = args.scratch.as<float>();
  float* zero = scale + scales;
  auto* codes = reinterpret_cast<int8_t*>(zero + scales);
  const auto view = [](auto* data, Shape shape, DType dtype) {
    return View{reinterpret_cast<std::byte*>(data), shape, dtype};
  };
  const Shape grids{x.rows(), to.scales};
  run_quantize(x, {}, {}, view(codes, x.shape, DType::i8), view(scale, grids, DType::f32),
               to.zero ? view(zero, grids, DType::f32) : View{}, args.grid, stream);
  elementwise(stream, scales, false, AppendScalesRun{scale, zero, to, length});
  elementwise(stream, x.count() / 2, false, AppendCodesRun{codes, to, length});
}

}  // namespace

size_t attention_cached_scratch_bytes(const AttentionCached& args) {
  if (!args.k_scale) return 0;
  return size_t(new_scales(args)) * 2 * sizeof(float) + size_t(args.k_TGD.count());
}

void attention_cached(const AttentionCached& args, Stream& stream) {
  if (args.head_dim > kMostDim)
    throw std::logic_error("attention_cached: heads of " + std::to_string(args.head_dim) +
                           " elements; the CUDA kernels take up to 256");
  const CacheRows keys = rows_of(args, args.k_cache, args.k_scale, args.k_zero);
  const CacheRows values = rows_of(args, args.v_cache, args.v_scale, args.v_zero);
  append(args.k_TGD, keys, args, stream);
  append(args.v_TGD, values, args, stream);
  with_float(args.q_THD.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(attend_cached<T>, Blocks{args.q_THD.count() / args.head_dim}, kThreads, 0, stream,
           args.q_THD.as<T>(), args.y_THD.as<T>(), keys, values, args.length.as<int32_t>(),
           args.heads, args.kv_heads, args.head_dim, args.scale);
  });
}

}  // namespace qat::cuda
