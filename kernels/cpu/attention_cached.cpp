// Attention of new tokens over a cache, for generation: one token and head at a time, in f32.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention_cached_head.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/workspace.h"
#include "kernels/float_types.h"
#include "kernels/quant_math.h"

namespace qat::cpu {
namespace {

AttendCached attend_cached() {
  if (isa() >= Isa::avx512) return attend_cached_avx512;
  return isa() == Isa::avx2 ? attend_cached_avx2 : attend_cached_sse2;
}

/// Copies the new rows behind those the cache holds, converted to its type.
void append(const ConstView& rows, int64_t length, const View& cache) {
  const int64_t count = rows.count(), start = length * rows.cols();
  if (rows.dtype == cache.dtype) {
    const size_t size = size_of(cache.dtype);
    std::memcpy(cache.data + size_t(start) * size, rows.data, size_t(count) * size);
  } else if (cache.dtype == DType::bf16) {
    auto* out = cache.as<BFloat16>() + start;
    for (int64_t i = 0; i < count; ++i) out[i] = to_bfloat16(rows.as<float>()[i]);
  } else {
    auto* out = cache.as<float>() + start;
    for (int64_t i = 0; i < count; ++i) out[i] = to_float(rows.as<BFloat16>()[i]);
  }
}

/// Scales (and as many zero points) of the new rows.
int64_t new_scales(const AttentionCached& args) {
  return args.k_TGD.rows() * args.k_scale.cols();
}

void store_scales(const float* from, int64_t count, const View& to, int64_t start) {
  for (int64_t i = 0; i < count; ++i) {
    if (to.dtype == DType::f32) to.as<float>()[start + i] = from[i];
    if (to.dtype == DType::bf16) to.as<BFloat16>()[start + i] = to_bfloat16(from[i]);
    if (to.dtype == DType::f16) to.as<Float16>()[start + i] = to_float16(from[i]);
  }
}

/// Puts the new rows on the grid by the very kernel of training, and packs them behind the others.
void append_codes(const ConstView& x, const AttentionCached& args, const View& cache,
                  const View& scale, const View& zero, const Stream& stream) {
  const int64_t length = args.length.as<int32_t>()[0], scales = new_scales(args);
  float* new_scale = args.scratch.as<float>();
  float* new_zero = new_scale + scales;
  auto* codes = reinterpret_cast<int8_t*>(new_zero + scales);
  const auto view = [](auto* data, Shape shape, DType dtype) {
    return View{reinterpret_cast<std::byte*>(data), shape, dtype};
  };
  const Shape grids{x.rows(), scale.cols()};
  run_quantize(x, {}, {}, view(codes, x.shape, DType::i8), view(new_scale, grids, DType::f32),
               zero ? view(new_zero, grids, DType::f32) : View{}, args.grid, stream);
  store_scales(new_scale, scales, scale, length * scale.cols());
  if (zero)
    for (int64_t i = 0; i < scales; ++i)
      zero.as<int8_t>()[length * zero.cols() + i] = int8_t(new_zero[i]);
  if (args.grid.bits == 4) {
    auto* out = cache.as<uint8_t>() + length * cache.cols();
    for (int64_t i = 0; i < x.count(); i += 2) out[i / 2] = pack_int4(codes[i], codes[i + 1]);
  } else {
    std::memcpy(cache.as<int8_t>() + length * cache.cols(), codes, size_t(x.count()));
  }
}

float scale_at(const View& scale, int64_t i) {
  if (scale.dtype == DType::f32) return scale.as<float>()[i];
  if (scale.dtype == DType::bf16) return to_float(scale.as<BFloat16>()[i]);
  return to_float(scale.as<Float16>()[i]);
}

/// The values of the first `rows` rows. Many new tokens read each row many times, so that it pays
/// to widen it once.
void widen(const AttentionCached& args, const View& cache, const View& scale, const View& zero,
           int64_t rows, float* out, const Stream& stream) {
  const int64_t width = args.k_TGD.cols(), scales = scale.cols(), group = width / scales;
  over_ranges(stream, rows, 1, width, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * scales; at < end * scales; ++at) {
      const float by = scale_at(scale, at), from = zero ? float(zero.as<int8_t>()[at]) : 0.0f;
      const int64_t first = at * group;  // rows follow each other without gaps, packed or not
      for (int64_t i = first; i < first + group; ++i) {
        int code = 0;
        if (args.grid.bits == 4) {
          const uint8_t byte = cache.as<uint8_t>()[i / 2];
          code = i % 2 ? high_int4(byte) : low_int4(byte);
        } else {
          code = cache.as<int8_t>()[i];
        }
        out[i] = (float(code) - from) * by;
      }
    }
  });
}

CachedGrid grid_of(const AttentionCached& args) {
  CachedGrid grid{};
  grid.bits = args.grid.bits;
  grid.scales = args.k_scale.cols();
  grid.group = args.k_TGD.cols() / grid.scales;
  grid.scale_type = args.k_scale.dtype;
  grid.k_scale = args.k_scale.data;
  grid.v_scale = args.v_scale.data;
  grid.k_zero = args.k_zero ? args.k_zero.as<int8_t>() : nullptr;
  grid.v_zero = args.v_zero ? args.v_zero.as<int8_t>() : nullptr;
  return grid;
}

}  // namespace

size_t attention_cached_scratch_bytes(const AttentionCached& args) {
  if (!args.k_scale) return 0;
  const size_t appended = size_t(new_scales(args)) * 2 * sizeof(float) + size_t(args.k_TGD.count());
  if (args.k_TGD.rows() == 1) return appended;
  return std::max(appended, size_t(args.k_cache.rows() * args.k_TGD.cols()) * 2 * sizeof(float));
}

void attention_cached(const AttentionCached& args, Stream& stream) {
  const int64_t length = args.length.as<int32_t>()[0], heads = args.heads, dim = args.head_dim;
  const int64_t tokens = args.q_THD.count() / (heads * dim), group = heads / args.kv_heads;
  const bool on_grid = bool(args.k_scale), coded = on_grid && tokens == 1;
  const CachedGrid shared = coded ? grid_of(args) : CachedGrid{};
  View k_rows = args.k_cache, v_rows = args.v_cache;
  if (on_grid) {
    append_codes(args.k_TGD, args, args.k_cache, args.k_scale, args.k_zero, stream);
    append_codes(args.v_TGD, args, args.v_cache, args.v_scale, args.v_zero, stream);
  } else {
    append(args.k_TGD, length, args.k_cache);
    append(args.v_TGD, length, args.v_cache);
  }
  if (on_grid && !coded) {
    const int64_t rows = length + tokens, width = args.k_TGD.cols();
    k_rows = {args.scratch.data, Shape{rows, width}, DType::f32};
    v_rows = {args.scratch.data + k_rows.bytes(), Shape{rows, width}, DType::f32};
    widen(args, args.k_cache, args.k_scale, args.k_zero, rows, k_rows.as<float>(), stream);
    widen(args, args.v_cache, args.v_scale, args.v_zero, rows, v_rows.as<float>(), stream);
  }
  const AttendCached attend = attend_cached();
  // Later tokens see more keys: they go first.
#pragma omp parallel for schedule(dynamic) num_threads(stream.threads())
  for (int64_t task = 0; task < tokens * heads; ++task) {
    static thread_local Workspace workspace;
    const int64_t token = tokens - 1 - task / heads, head = task % heads;
    const size_t row = size_t((token * heads + head) * dim) * size_of(args.q_THD.dtype);
    const size_t column = size_t(head / group * dim) * size_of(k_rows.dtype);
    CachedHead one{};
    one.type = args.q_THD.dtype;
    one.cache_type = k_rows.dtype;
    one.q = args.q_THD.data + row;
    one.y = args.y_THD.data + row;
    one.k_cache = k_rows.data + column;
    one.v_cache = v_rows.data + column;
    one.keys = length + token + 1;
    one.stride = args.kv_heads * dim;
    CachedGrid grid = shared;
    if (coded) {
      grid.column = head / group * dim;
      one.grid = &grid;
      one.k_cache = args.k_cache.data;
      one.v_cache = args.v_cache.data;
      one.stride = args.k_cache.cols();
    }
    one.head_dim = dim;
    one.scale = args.scale;
    one.temp =
        reinterpret_cast<float*>(workspace.get(size_t(cached_head_floats(dim)) * sizeof(float)));
    attend(one);
  }
}

}  // namespace qat::cpu
