// AdamW, a block of 256 elements at a time. The order of operations is bitsandbytes'
// (csrc/cuda/optimizers.cu); a state is divided by its block's maximum by multiplying with the
// reciprocal.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/random_halves.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

constexpr int kBlock = kRandomBlock;

/// bf16 of value: the lower half is a probability to go one up in magnitude.
QAT_LANES_INLINE BFloat16 round_stochastically(float value, uint32_t half) {
  const uint32_t bits = bits_of(value);
  const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
  const uint32_t rounded = (bits + half) >> 16;
  const uint32_t kept = (bits >> 16) | ((bits & 0xFFFFu) != 0 ? 0x40u : 0u);
  return {uint16_t(finite ? rounded : kept)};
}

struct F32States {
  float *m, *v;
};

/// Writes a block's new parameters (f32 in `fresh`) as they are stored.
QAT_LANES_INLINE void store_parameters(const AdamWJob& job, float* p, int64_t at, int count,
                                       const float* fresh) {
  over_lanes(count, [=](int64_t i, auto part) { store(p + i, load(fresh + i, part), part); });
  if (job.copy == nullptr) return;
  BFloat16* copy = job.copy + at;
  over_lanes(count, [=](int64_t i, auto part) { store(copy + i, load(fresh + i, part), part); });
}
QAT_LANES_INLINE void store_parameters(const AdamWJob& job, BFloat16* p, int64_t at, int count,
                                       const float* fresh) {
  alignas(64) uint32_t halves[kBlock];
  random_halves(job.seed, job.step, job.first_element + at, halves);
  for (int i = 0; i < count; ++i) p[i] = round_stochastically(fresh[i], halves[i]);
  if (job.copy == nullptr) return;
  for (int i = 0; i < count; ++i) job.copy[at + i] = p[i];
}

struct Constants {
  Lanes beta1, rest1, beta2, rest2, eps, step_size, keep, grad_scale;
};

QAT_LANES_INLINE Constants constants_of(const AdamWJob& job) {
  return {all(job.beta1), all(1.0f - job.beta1), all(job.beta2), all(1.0f - job.beta2),
          all(job.eps),   all(-job.step_size),   all(job.keep),  all(job.grad_scale)};
}

QAT_LANES_INLINE Mask is_finite(Lanes g) {
  return at_least(all(kLargestFloat), abs(g));
}
QAT_LANES_INLINE Lanes next_m(const Constants& c, Lanes m, Lanes g) {
  return m * c.beta1 + c.rest1 * g;
}
QAT_LANES_INLINE Lanes next_v(const Constants& c, Lanes v, Lanes g) {
  return min(v * c.beta2 + c.rest2 * g * g, all(kLargestFloat));
}
QAT_LANES_INLINE Lanes next_p(const Constants& c, Lanes p, Lanes m, Lanes v) {
  return (p + c.step_size * (m / (sqrt(v) + c.eps))) * c.keep;
}

template <class P, class G>
void step_f32(const AdamWJob& job) {
  const Constants c = constants_of(job);
  for (int64_t done = 0; done < job.count; done += kBlock) {
    const int count = int(job.count - done < kBlock ? job.count - done : kBlock);
    const int64_t at = job.first + done;
    P* p = static_cast<P*>(job.p) + at;
    const G* g = static_cast<const G*>(job.g) + at;
    float* m = static_cast<float*>(job.m) + at;
    float* v = static_cast<float*>(job.v) + at;
    alignas(64) float fresh[kBlock];
    float* fresh_p = fresh;
    over_lanes(count, [=](int64_t i, auto part) {
      const Lanes raw = load(g + i, part), old_m = load(m + i, part), old_v = load(v + i, part);
      const Lanes old_p = load(p + i, part);
      const Mask finite = is_finite(raw);
      const Lanes gradient = raw * c.grad_scale;
      const Lanes new_m = select(finite, next_m(c, old_m, gradient), old_m);
      const Lanes new_v = select(finite, next_v(c, old_v, gradient), old_v);
      store(m + i, new_m, part);
      store(v + i, new_v, part);
      store(fresh_p + i, select(finite, next_p(c, old_p, new_m, new_v), old_p), part);
    });
    store_parameters(job, p, at, count, fresh);
  }
}

QAT_LANES_INLINE Lanes decode(const float* map, const uint8_t* index, Whole) {
  return gather(map, index);
}
QAT_LANES_INLINE Lanes decode(const float* map, const uint8_t* index, Part part) {
  uint8_t buffer[16] = {};
  for (int i = 0; i < part.count; ++i) buffer[i] = index[i];
  return gather(map, buffer);
}

QAT_LANES_INLINE void encode(const uint32_t* entries, Lanes x, uint8_t* index, Whole) {
  nearest(entries, x, index);
}
QAT_LANES_INLINE void encode(const uint32_t* entries, Lanes x, uint8_t* index, Part part) {
  uint8_t buffer[16];
  nearest(entries, x, buffer);
  for (int i = 0; i < part.count; ++i) index[i] = buffer[i];
}

/// A maximum too small to divide by counts as 0: the whole block becomes 0.
QAT_LANES_INLINE float usable(float absmax) {
  return absmax < kSmallestNormal ? 0.0f : absmax;
}
QAT_LANES_INLINE float reciprocal(float absmax) {
  return absmax > 0.0f ? 1.0f / absmax : 0.0f;
}

template <class P, class G>
void step_u8(const AdamWJob& job) {
  const Constants c = constants_of(job);
  for (int64_t done = 0; done < job.count; done += kBlock) {
    const int count = int(job.count - done < kBlock ? job.count - done : kBlock);
    const int64_t at = job.first + done, block = at / kBlock;
    P* p = static_cast<P*>(job.p) + at;
    const G* g = static_cast<const G*>(job.g) + at;
    uint8_t* m = static_cast<uint8_t*>(job.m) + at;
    uint8_t* v = static_cast<uint8_t*>(job.v) + at;
    const Lanes m_scale = all(job.m_absmax[block]), v_scale = all(job.v_absmax[block]);
    alignas(64) float fresh[kBlock], fresh_m[kBlock], fresh_v[kBlock];
    // A partial store leaves the rest of its sixteen alone; whole lanes are read back below.
    const int padded = (count + 15) / 16 * 16;
    for (int i = count; i < padded; ++i) fresh_m[i] = fresh_v[i] = 0.0f;
    Lanes m_size = all(0.0f), v_size = all(0.0f);
    over_lanes(count, [&](int64_t i, auto part) {
      const Lanes raw = load(g + i, part), old_p = load(p + i, part);
      const Lanes old_m = decode(job.m_map, m + i, part) * m_scale;
      const Lanes old_v = decode(job.v_map, v + i, part) * v_scale;
      const Mask finite = is_finite(raw);
      const Lanes gradient = raw * c.grad_scale;
      const Lanes new_m = select(finite, next_m(c, old_m, gradient), all(0.0f));
      const Lanes new_v = select(finite, next_v(c, old_v, gradient), all(0.0f));
      store(fresh_m + i, new_m, part);
      store(fresh_v + i, new_v, part);
      store(fresh + i, select(finite, next_p(c, old_p, new_m, new_v), old_p), part);
      m_size = max(abs(load(fresh_m + i)), m_size);
      v_size = max(load(fresh_v + i), v_size);
    });
    const float m_absmax = usable(largest(m_size)), v_absmax = usable(largest(v_size));
    job.m_absmax[block] = m_absmax;
    job.v_absmax[block] = v_absmax;
    const Lanes m_inverse = all(reciprocal(m_absmax)), v_inverse = all(reciprocal(v_absmax));
    over_lanes(count, [&](int64_t i, auto part) {
      encode(job.m_nearest, load(fresh_m + i) * m_inverse, m + i, part);
      encode(job.v_nearest, load(fresh_v + i) * v_inverse, v + i, part);
    });
    store_parameters(job, p, at, count, fresh);
  }
}

template <class P, class G>
void step(const AdamWJob& job) {
  if (job.m_absmax != nullptr)
    step_u8<P, G>(job);
  else
    step_f32<P, G>(job);
}

void adamw(const AdamWJob& job) {
  if (job.p_type == DType::f32 && job.g_type == DType::f32) step<float, float>(job);
  if (job.p_type == DType::f32 && job.g_type == DType::bf16) step<float, BFloat16>(job);
  if (job.p_type == DType::bf16 && job.g_type == DType::f32) step<BFloat16, float>(job);
  if (job.p_type == DType::bf16 && job.g_type == DType::bf16) step<BFloat16, BFloat16>(job);
}

}  // namespace

void fill_adamw(VectorKernels& table) {
  table.adamw = adamw;
}

}  // namespace qat::cpu::QAT_LANES
