// One AdamW step with the CPU's bits (bitsandbytes' order of operations). A warp takes a block of
// 256 elements, a thread eight that follow each other; 8-bit states are decoded from and encoded by
// tables in shared memory, which a block of threads loads once for many blocks of elements. Reads
// p, g, m, v once and writes p, m, v (and the copy) once.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/random_half.h"
#include "kernels/quant_math.h"

namespace qat::cuda {
namespace {

constexpr int kElements = 256;  // under one absmax
constexpr uint32_t kTableEntries = 2 * NearestTable::kBuckets;

template <class P, class G, class S>
struct Job {
  P* p;
  const G* g;
  S *m, *v;
  float *m_absmax, *v_absmax;
  BFloat16* copy;  ///< may be null
  const DynamicMaps* maps;
  int64_t count;
  float beta1, rest1, beta2, rest2, eps, step_size, keep, grad_scale;
  uint64_t seed, step;
};

/// Elements of a thread that are behind the end are 0 and not written.
template <class T>
QAT_DEVICE void load_some(const T* p, int64_t left, float (&out)[kWide]) {
  if (left >= kWide) return load(p, out);
  for (int k = 0; k < kWide; ++k) out[k] = k < left ? to_float(p[k]) : 0.0f;
}
QAT_DEVICE void load_some(const uint8_t* p, int64_t left, const float* map, float (&out)[kWide]) {
  uint8_t index[kWide] = {};
  if (left >= kWide) {
    const auto words = load_as<Words<2>>(p);
    for (int k = 0; k < kWide; ++k) index[k] = uint8_t(words.at[k / 4] >> (k % 4 * 8));
  } else {
    for (int k = 0; k < kWide; ++k)
      if (k < left) index[k] = p[k];
  }
  for (int k = 0; k < kWide; ++k) out[k] = map[index[k]];
}
template <class T>
QAT_DEVICE void store_some(T* p, int64_t left, const float (&v)[kWide]) {
  if (left >= kWide) return store(p, v);
  for (int k = 0; k < kWide; ++k)
    if (k < left) p[k] = narrow<T>(v[k]);
}

/// bf16 of value: the lower half is a probability to go one up in magnitude.
QAT_DEVICE BFloat16 round_stochastically(float value, uint32_t half) {
  const uint32_t bits = bits_of(value);
  const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
  const uint32_t rounded = (bits + half) >> 16;
  const uint32_t kept = (bits >> 16) | ((bits & 0xFFFFu) != 0 ? 0x40u : 0u);
  return {uint16_t(finite ? rounded : kept)};
}

QAT_DEVICE void store_parameters(float* p, BFloat16* copy, int64_t at, int64_t left,
                                 const float (&fresh)[kWide], uint64_t, uint64_t) {
  store_some(p + at, left, fresh);
  if (copy) store_some(copy + at, left, fresh);
}
QAT_DEVICE void store_parameters(BFloat16* p, BFloat16* copy, int64_t at, int64_t left,
                                 const float (&fresh)[kWide], uint64_t seed, uint64_t step) {
  float rounded[kWide];
  for (int k = 0; k < kWide; ++k)
    rounded[k] = to_float(round_stochastically(fresh[k], random_half(seed, step, at + k)));
  store_some(p + at, left, rounded);
  if (copy) store_some(copy + at, left, rounded);
}

/// Index of x in a dynamic map by its NearestTable entries.
QAT_DEVICE uint8_t nearest(const uint32_t* entries, float x) {
  const uint32_t bits = bits_of(x), negative = bits >> 31;
  uint32_t bucket = (bits >> 16) & 0x7FFFu;
  bucket = bucket < NearestTable::kFirst ? 0 : bucket - NearestTable::kFirst;
  bucket = bucket < NearestTable::kBuckets ? bucket : NearestTable::kBuckets - 1;
  const uint32_t entry = entries[bucket + negative * NearestTable::kBuckets];
  const int beyond = (bits & 0xFFFFu) >= (entry & 0x1FFFFu) ? 1 : 0;
  return uint8_t(int(entry >> NearestTable::kCutBits) + (negative != 0 ? -beyond : beyond));
}

/// The next m, v and p of a thread's elements; where a gradient is not finite p stays, and so do m
/// and v (or they become 0, as 8-bit states do).
template <class P, class G, class S>
QAT_DEVICE void step_elements(const Job<P, G, S>& job, const float (&g)[kWide], float (&m)[kWide],
                              float (&v)[kWide], float (&p)[kWide]) {
  constexpr bool kCoded = sizeof(S) == 1;
  for (int k = 0; k < kWide; ++k) {
    const bool finite = magnitude(g[k]) <= kLargestFloat;
    const float gradient = g[k] * job.grad_scale;
    const float next_m = m[k] * job.beta1 + job.rest1 * gradient;
    const float next_v = smaller(v[k] * job.beta2 + job.rest2 * gradient * gradient, kLargestFloat);
    const float next_p = (p[k] + job.step_size * (next_m / (sqrtf(next_v) + job.eps))) * job.keep;
    m[k] = finite ? next_m : kCoded ? 0.0f : m[k];
    v[k] = finite ? next_v : kCoded ? 0.0f : v[k];
    p[k] = finite ? next_p : p[k];
  }
}

template <class P, class G>
__global__ void __launch_bounds__(kBlockThreads) step_f32(Job<P, G, float> job) {
  const int64_t at = (int64_t(blockIdx.x) * kBlockThreads + threadIdx.x) * kWide;
  const int64_t left = job.count - at;
  if (left <= 0) return;
  float p[kWide], g[kWide], m[kWide], v[kWide];
  load_some(job.p + at, left, p);
  load_some(job.g + at, left, g);
  load_some(job.m + at, left, m);
  load_some(job.v + at, left, v);
  step_elements(job, g, m, v, p);
  store_some(job.m + at, left, m);
  store_some(job.v + at, left, v);
  store_parameters(job.p, job.copy, at, left, p, job.seed, job.step);
}

/// A maximum too small to divide by counts as 0: the whole block becomes 0.
QAT_DEVICE float usable(float absmax) {
  return absmax < kSmallestNormal ? 0.0f : absmax;
}

struct Tables {
  float m_map[256], v_map[256];
  uint32_t m_nearest[kTableEntries], v_nearest[NearestTable::kBuckets];  ///< v is not negative
};

QAT_DEVICE void load_tables(const DynamicMaps& maps, Tables& tables) {
  const float* m_map = reinterpret_cast<const float*>(&maps.m);
  const float* v_map = reinterpret_cast<const float*>(&maps.v);
  const uint32_t* m_nearest = reinterpret_cast<const uint32_t*>(&maps.m_nearest);
  const uint32_t* v_nearest = reinterpret_cast<const uint32_t*>(&maps.v_nearest);
  for (uint32_t i = threadIdx.x; i < kTableEntries; i += kBlockThreads) {
    if (i < 256) {
      tables.m_map[i] = m_map[i];
      tables.v_map[i] = v_map[i];
    }
    tables.m_nearest[i] = m_nearest[i];
    if (i < NearestTable::kBuckets) tables.v_nearest[i] = v_nearest[i];
  }
  __syncthreads();
}

QAT_DEVICE void store_codes(uint8_t* p, int64_t left, const uint8_t (&codes)[kWide]) {
  if (left >= kWide) return store_bytes(p, codes);
  for (int k = 0; k < kWide; ++k)
    if (k < left) p[k] = codes[k];
}

template <class P, class G>
__global__ void __launch_bounds__(kBlockThreads) step_u8(Job<P, G, uint8_t> job) {
  Tables& tables = *reinterpret_cast<Tables*>(dynamic_shared());
  load_tables(*job.maps, tables);
  const int64_t blocks = (job.count + kElements - 1) / kElements;
  const int64_t warps = int64_t(gridDim.x) * (kBlockThreads / kWarp);
  const Team team{kWarp};
  for (int64_t block = int64_t(blockIdx.x) * (kBlockThreads / kWarp) + warp_id(); block < blocks;
       block += warps) {
    const int64_t at = block * kElements + lane_id() * kWide, left = job.count - at;
    const int64_t from = left > 0 ? at : 0;
    float p[kWide], g[kWide], m[kWide], v[kWide];
    load_some(job.p + from, left, p);
    load_some(job.g + from, left, g);
    load_some(job.m + from, left, tables.m_map, m);
    load_some(job.v + from, left, tables.v_map, v);
    const float m_scale = job.m_absmax[block], v_scale = job.v_absmax[block];
    for (int k = 0; k < kWide; ++k) {
      m[k] *= m_scale;
      v[k] *= v_scale;
    }
    step_elements(job, g, m, v, p);
    float m_size = 0.0f, v_size = 0.0f;
    for (int k = 0; k < kWide; ++k) {
      if (k >= left) m[k] = v[k] = 0.0f;
      m_size = larger(magnitude(m[k]), m_size);
      v_size = larger(v[k], v_size);
    }
    m_size = usable(team.reduce(m_size, Largest{}));
    v_size = usable(team.reduce(v_size, Largest{}));
    if (lane_id() == 0) {
      job.m_absmax[block] = m_size;
      job.v_absmax[block] = v_size;
    }
    if (left <= 0) continue;
    const float m_inverse = m_size > 0.0f ? 1.0f / m_size : 0.0f;
    const float v_inverse = v_size > 0.0f ? 1.0f / v_size : 0.0f;
    uint8_t m_codes[kWide], v_codes[kWide];
    for (int k = 0; k < kWide; ++k) {
      m_codes[k] = nearest(tables.m_nearest, m[k] * m_inverse);
      v_codes[k] = nearest(tables.v_nearest, magnitude(v[k] * v_inverse));
    }
    store_codes(job.m + at, left, m_codes);
    store_codes(job.v + at, left, v_codes);
    store_parameters(job.p, job.copy, at, left, p, job.seed, job.step);
  }
}

template <class P, class G, class S>
Job<P, G, S> job_of(const AdamW& args, Stream& stream) {
  const double correction1 = 1.0 - std::pow(double(args.beta1), double(args.step));
  const double correction2 = std::sqrt(1.0 - std::pow(double(args.beta2), double(args.step)));
  Job<P, G, S> job{};
  job.p = args.p.as<P>();
  job.g = args.g.as<G>();
  job.m = args.m.as<S>();
  job.v = args.v.as<S>();
  job.m_absmax = args.m_absmax.as<float>();
  job.v_absmax = args.v_absmax.as<float>();
  job.copy = args.copy.as<BFloat16>();
  job.maps = context_of(stream).maps;
  job.count = args.p.count();
  job.beta1 = args.beta1;
  job.rest1 = 1.0f - args.beta1;
  job.beta2 = args.beta2;
  job.rest2 = 1.0f - args.beta2;
  job.eps = float(double(args.eps) * correction2);
  job.step_size = -float(double(args.lr) * correction2 / correction1);
  job.keep = 1.0f - args.lr * args.weight_decay;
  job.grad_scale = args.grad_scale;
  job.seed = args.seed;
  job.step = uint64_t(args.step);
  return job;
}

constexpr int64_t kTableBlocks = 1024;  // the tables are loaded this many times at most

}  // namespace

void adamw(const AdamW& args, Stream& stream) {
  const int64_t count = args.p.count();
  with_float(args.p.dtype, [&](auto p) {
    with_float(args.g.dtype, [&](auto g) {
      using P = decltype(p);
      using G = decltype(g);
      if (args.m_absmax)
        launch(
            step_u8<P, G>,
            Blocks{std::min(kTableBlocks, divided_up(count, kElements * (kBlockThreads / kWarp)))},
            kBlockThreads, sizeof(Tables), stream, job_of<P, G, uint8_t>(args, stream));
      else
        launch(step_f32<P, G>, Blocks{divided_up(count, kBlockThreads * kWide)}, kBlockThreads, 0,
               stream, job_of<P, G, float>(args, stream));
    });
  });
}

}  // namespace qat::cuda
