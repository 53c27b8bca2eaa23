// lanes.h for any processor, in the compiler's own vectors of sixteen (which it splits as it
// likes).
#pragma once

namespace qat::cpu::scalar {

template <class T>
using Sixteen [[gnu::vector_size(16 * sizeof(T))]] = T;

using Floats = Sixteen<float>;
using Words = Sixteen<uint32_t>;
using Integers = Sixteen<int32_t>;

struct Lanes {
  Floats v;
};

struct Mask {
  Integers bits;  // -1 where set
};

template <class T>
QAT_LANES_INLINE Sixteen<T> load_sixteen(const void* p) {
  Sixteen<T> result;
  memcpy(&result, p, sizeof result);
  return result;
}
template <class T>
QAT_LANES_INLINE void store_sixteen(void* p, Sixteen<T> x) {
  memcpy(p, &x, sizeof x);
}
QAT_LANES_INLINE Words words_of(Lanes a) {
  return reinterpret_cast<Words>(a.v);
}
QAT_LANES_INLINE Lanes lanes_of(Words words) {
  return {reinterpret_cast<Floats>(words)};
}

QAT_LANES_INLINE Lanes all(float v) {
  return {Floats{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v}};
}
QAT_LANES_INLINE Lanes load(const float* p) {
  return {load_sixteen<float>(p)};
}
QAT_LANES_INLINE Lanes load(const BFloat16* p) {
  return lanes_of(__builtin_convertvector(load_sixteen<uint16_t>(p), Words) << 16);
}
QAT_LANES_INLINE Lanes load(const int8_t* p) {
  return {__builtin_convertvector(load_sixteen<int8_t>(p), Floats)};
}

QAT_LANES_INLINE void store(float* p, Lanes x) {
  store_sixteen<float>(p, x.v);
}
/// As store, for values that are not NaN.
QAT_LANES_INLINE void store_number(float* p, Lanes x) {
  store(p, x);
}
QAT_LANES_INLINE Words number_words(Lanes x) {
  const Words bits = words_of(x);
  return (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
}
QAT_LANES_INLINE void store_number(BFloat16* p, Lanes x) {
  store_sixteen<uint16_t>(p, __builtin_convertvector(number_words(x), Sixteen<uint16_t>));
}
QAT_LANES_INLINE void store(BFloat16* p, Lanes x) {
  const Words nan = reinterpret_cast<Words>(x.v != x.v);
  const Words bits = (number_words(x) & ~nan) | (uint32_t(kNanBFloat16) & nan);
  store_sixteen<uint16_t>(p, __builtin_convertvector(bits, Sixteen<uint16_t>));
}
/// Integers in [-128, 127] from 1.5 * 2^23 + integer.
QAT_LANES_INLINE void store_shifted(int8_t* p, Lanes x) {
  store_sixteen<uint8_t>(p, __builtin_convertvector(words_of(x), Sixteen<uint8_t>));
}
/// Largest |x| of whole sixteens; NaN wins.
QAT_LANES_INLINE float amax_of_sixteens(const BFloat16* x, int64_t count) {
  uint16_t result = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t size = x[i].bits & 0x7FFFu;
    result = size > result ? size : result;
  }
  return to_float(BFloat16{result});
}
/// columns[i * 16 + row] = x[row * stride + i] for sixteen rows and columns.
template <class T>
QAT_LANES_INLINE void transpose(const T* x, int64_t stride, float* columns) {
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < 16; ++i) columns[i * 16 + row] = to_float(x[row * stride + i]);
}

QAT_LANES_INLINE Lanes operator+(Lanes a, Lanes b) {
  return {a.v + b.v};
}
QAT_LANES_INLINE Lanes operator-(Lanes a, Lanes b) {
  return {a.v - b.v};
}
QAT_LANES_INLINE Lanes operator*(Lanes a, Lanes b) {
  return {a.v * b.v};
}
QAT_LANES_INLINE Lanes operator/(Lanes a, Lanes b) {
  return {a.v / b.v};
}

QAT_LANES_INLINE Mask at_least(Lanes a, Lanes b) {
  return {a.v >= b.v};
}
QAT_LANES_INLINE Mask less(Lanes a, Lanes b) {
  return {a.v < b.v};
}
QAT_LANES_INLINE Mask both(Mask a, Mask b) {
  return {a.bits & b.bits};
}
QAT_LANES_INLINE bool any(Mask a) {
  int32_t result = 0;
  for (int lane = 0; lane < 16; ++lane) result |= a.bits[lane];
  return result != 0;
}
/// a where the mask is set, else b.
QAT_LANES_INLINE Lanes select(Mask mask, Lanes a, Lanes b) {
  const Words set = reinterpret_cast<Words>(mask.bits);
  return lanes_of((words_of(a) & set) | (words_of(b) & ~set));
}
/// x where x is NaN, else value.
QAT_LANES_INLINE Lanes keep_nan(Lanes x, Lanes value) {
  return select({x.v != x.v}, x, value);
}
/// a > b ? a : b, so b where either is NaN.
QAT_LANES_INLINE Lanes max(Lanes a, Lanes b) {
  return select({a.v > b.v}, a, b);
}
QAT_LANES_INLINE Lanes min(Lanes a, Lanes b) {
  return select({a.v < b.v}, a, b);
}
QAT_LANES_INLINE Lanes abs(Lanes a) {
  return lanes_of(words_of(a) & 0x7FFFFFFFu);
}
/// size, which has no sign bit, with the sign of `from`.
QAT_LANES_INLINE Lanes with_sign(Lanes size, Lanes from) {
  return lanes_of(words_of(size) | (words_of(from) & 0x80000000u));
}
/// The larger of two absolute values; NaN wins over everything. Both arguments have no sign bit.
QAT_LANES_INLINE Lanes max_magnitude(Lanes a, Lanes b) {
  const Integers above = reinterpret_cast<Integers>(a.v) > reinterpret_cast<Integers>(b.v);
  return select({above}, a, b);
}
QAT_LANES_INLINE Lanes sqrt(Lanes a) {
  for (int lane = 0; lane < 16; ++lane) a.v[lane] = __builtin_sqrtf(a.v[lane]);
  return a;
}
/// a * b + c, rounded once.
QAT_LANES_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
  for (int lane = 0; lane < 16; ++lane) c.v[lane] = __builtin_fmaf(a.v[lane], b.v[lane], c.v[lane]);
  return c;
}
/// p * 2^n, where shifted = 1.5 * 2^23 + n and neither p nor the product is subnormal.
QAT_LANES_INLINE Lanes scale_by_power(Lanes p, Lanes shifted) {
  return lanes_of(words_of(p) + (words_of(shifted) << 23));
}
/// Rounds half to even to a value whose `dropped` lowest bits are 0. NaN may become anything.
QAT_LANES_INLINE Lanes round_mantissa(Lanes a, int dropped) {
  const Words bits = words_of(a), odd = (bits >> dropped) & 1u;
  return lanes_of((bits + ((1u << (dropped - 1)) - 1u) + odd) >> dropped << dropped);
}

/// table[index].
QAT_LANES_INLINE Lanes gather(const float* table, const uint8_t* index) {
  Lanes result;
  for (int lane = 0; lane < 16; ++lane) result.v[lane] = table[index[lane]];
  return result;
}
/// Indices in a dynamic map by its NearestTable entries.
QAT_LANES_INLINE void nearest(const uint32_t* entries, Lanes x, uint8_t* index) {
  float values[16];
  store(values, x);
  for (int lane = 0; lane < 16; ++lane) {
    const uint32_t bits = bits_of(values[lane]), negative = bits >> 31;
    uint32_t bucket = (bits >> 16) & 0x7FFFu;
    bucket = bucket < kNearestFirst ? 0 : bucket - kNearestFirst;
    bucket = bucket < kNearestBuckets ? bucket : kNearestBuckets - 1;
    const uint32_t entry = entries[bucket + negative * kNearestBuckets];
    const int beyond = (bits & 0xFFFFu) >= (entry & 0x1FFFFu) ? 1 : 0;
    index[lane] = uint8_t(int(entry >> 17) + (negative != 0 ? -beyond : beyond));
  }
}

/// Fold halves: lane i takes i + 8, then i + 4, i + 2, i + 1.
QAT_LANES_INLINE float sum(Lanes a) {
  float values[16];
  store(values, a);
  for (int width = 8; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) values[lane] += values[lane + width];
  return values[0];
}
QAT_LANES_INLINE float largest(Lanes a) {
  float result = a.v[0];
  for (int lane = 1; lane < 16; ++lane) result = a.v[lane] > result ? a.v[lane] : result;
  return result;
}
QAT_LANES_INLINE float smallest(Lanes a) {
  float result = a.v[0];
  for (int lane = 1; lane < 16; ++lane) result = a.v[lane] < result ? a.v[lane] : result;
  return result;
}
QAT_LANES_INLINE float largest_magnitude(Lanes a) {
  uint32_t result = 0;
  for (int lane = 0; lane < 16; ++lane) {
    const uint32_t bits = words_of(a)[lane];
    result = bits > result ? bits : result;
  }
  return float_of(result);
}

}  // namespace qat::cpu::scalar
