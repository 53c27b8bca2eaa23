// Attention of new tokens over a cache, for generation: one token and head at a time, in f32.
#include <omp.h>

#include <cstring>

#include "kernels/cpu/attention_cached_head.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/workspace.h"
#include "kernels/float_types.h"

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

}  // namespace

size_t attention_cached_scratch_bytes(const AttentionCached&) {
  return 0;
}

void attention_cached(const AttentionCached& args, Stream& stream) {
  const int64_t length = args.length.as<int32_t>()[0], heads = args.heads, dim = args.head_dim;
  const int64_t tokens = args.q_THD.count() / (heads * dim), group = heads / args.kv_heads;
  append(args.k_TGD, length, args.k_cache);
  append(args.v_TGD, length, args.v_cache);
  const AttendCached attend = attend_cached();
  // Later tokens see more keys: they go first.
#pragma omp parallel for schedule(dynamic) num_threads(stream.threads())
  for (int64_t task = 0; task < tokens * heads; ++task) {
    static thread_local Workspace workspace;
    const int64_t token = tokens - 1 - task / heads, head = task % heads;
    const size_t row = size_t((token * heads + head) * dim) * size_of(args.q_THD.dtype);
    const size_t column = size_t(head / group * dim) * size_of(args.k_cache.dtype);
    CachedHead one{};
    one.type = args.q_THD.dtype;
    one.cache_type = args.k_cache.dtype;
    one.q = args.q_THD.data + row;
    one.y = args.y_THD.data + row;
    one.k_cache = args.k_cache.data + column;
    one.v_cache = args.v_cache.data + column;
    one.keys = length + token + 1;
    one.stride = args.kv_heads * dim;
    one.head_dim = dim;
    one.scale = args.scale;
    one.temp =
        reinterpret_cast<float*>(workspace.get(size_t(cached_head_floats(dim)) * sizeof(float)));
    attend(one);
  }
}

}  // namespace qat::cpu
