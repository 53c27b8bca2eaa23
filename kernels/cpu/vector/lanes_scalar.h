// lanes.h for any processor: arrays of sixteen, which the compiler may vectorise as it likes.
#pragma once

namespace qat::cpu::scalar {

struct Lanes {
  float v[16];
};

struct Mask {
  uint32_t bits;
};

#define QAT_EACH_LANE(expression)                                      \
  Lanes result;                                                        \
  for (int lane = 0; lane < 16; ++lane) result.v[lane] = (expression); \
  return result

QAT_LANES_INLINE Lanes all(float value) {
  QAT_EACH_LANE(value);
}
QAT_LANES_INLINE Lanes load(const float* p) {
  QAT_EACH_LANE(p[lane]);
}
QAT_LANES_INLINE Lanes load(const BFloat16* p) {
  QAT_EACH_LANE(to_float(p[lane]));
}
QAT_LANES_INLINE Lanes load(const int8_t* p) {
  QAT_EACH_LANE(float(p[lane]));
}

QAT_LANES_INLINE void store(float* p, Lanes x) {
  for (int lane = 0; lane < 16; ++lane) p[lane] = x.v[lane];
}
QAT_LANES_INLINE void store(BFloat16* p, Lanes x) {
  for (int lane = 0; lane < 16; ++lane) p[lane] = to_bfloat16(x.v[lane]);
}
/// As store, for values that are not NaN.
QAT_LANES_INLINE void store_number(float* p, Lanes x) {
  store(p, x);
}
QAT_LANES_INLINE void store_number(BFloat16* p, Lanes x) {
  store(p, x);
}
/// Integers in [-128, 127] from 1.5 * 2^23 + integer.
QAT_LANES_INLINE void store_shifted(int8_t* p, Lanes x) {
  for (int lane = 0; lane < 16; ++lane) p[lane] = int8_t(bits_of(x.v[lane]) & 0xFFu);
}
/// Largest |x| of whole sixteens; NaN wins.
QAT_LANES_INLINE float amax_of_sixteens(const BFloat16* x, int64_t count) {
  uint16_t largest[16] = {};
  for (int64_t i = 0; i < count; i += 16)
    for (int lane = 0; lane < 16; ++lane) {
      const uint16_t size = x[i + lane].bits & 0x7FFFu;
      largest[lane] = size > largest[lane] ? size : largest[lane];
    }
  uint16_t result = 0;
  for (uint16_t value : largest) result = value > result ? value : result;
  return to_float(BFloat16{result});
}
/// columns[i * 16 + row] = x[row * stride + i] for sixteen rows and columns.
QAT_LANES_INLINE void transpose(const float* x, int64_t stride, float* columns) {
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < 16; ++i) columns[i * 16 + row] = x[row * stride + i];
}
QAT_LANES_INLINE void transpose(const BFloat16* x, int64_t stride, float* columns) {
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < 16; ++i) columns[i * 16 + row] = to_float(x[row * stride + i]);
}

QAT_LANES_INLINE Lanes operator+(Lanes a, Lanes b) {
  QAT_EACH_LANE(a.v[lane] + b.v[lane]);
}
QAT_LANES_INLINE Lanes operator-(Lanes a, Lanes b) {
  QAT_EACH_LANE(a.v[lane] - b.v[lane]);
}
QAT_LANES_INLINE Lanes operator*(Lanes a, Lanes b) {
  QAT_EACH_LANE(a.v[lane] * b.v[lane]);
}
QAT_LANES_INLINE Lanes operator/(Lanes a, Lanes b) {
  QAT_EACH_LANE(a.v[lane] / b.v[lane]);
}
/// a > b ? a : b, so b where either is NaN.
QAT_LANES_INLINE Lanes max(Lanes a, Lanes b) {
  QAT_EACH_LANE(a.v[lane] > b.v[lane] ? a.v[lane] : b.v[lane]);
}
QAT_LANES_INLINE Lanes min(Lanes a, Lanes b) {
  QAT_EACH_LANE(a.v[lane] < b.v[lane] ? a.v[lane] : b.v[lane]);
}
QAT_LANES_INLINE Lanes abs(Lanes a) {
  QAT_EACH_LANE(float_of(bits_of(a.v[lane]) & 0x7FFFFFFFu));
}
QAT_LANES_INLINE Lanes sqrt(Lanes a) {
  QAT_EACH_LANE(__builtin_sqrtf(a.v[lane]));
}
/// a * b + c, rounded once.
QAT_LANES_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
  QAT_EACH_LANE(__builtin_fmaf(a.v[lane], b.v[lane], c.v[lane]));
}
/// Rounds half to even where |a| <= 2^22; larger values may come back changed, beyond +-2^22.
QAT_LANES_INLINE Lanes round_even(Lanes a) {
  const Lanes bounded = min(max(a, all(-0x1p22f)), all(0x1p22f));
  QAT_EACH_LANE((bounded.v[lane] + 0x1.8p23f) - 0x1.8p23f);
}
/// p * 2^n, where shifted = 1.5 * 2^23 + n and neither p nor the product is subnormal.
QAT_LANES_INLINE Lanes scale_by_power(Lanes p, Lanes shifted) {
  QAT_EACH_LANE(float_of(bits_of(p.v[lane]) + (bits_of(shifted.v[lane]) << 23)));
}
/// Rounds half to even to a value whose `dropped` lowest bits are 0. NaN may become anything.
QAT_LANES_INLINE Lanes round_mantissa(Lanes a, int dropped) {
  Lanes result;
  for (int lane = 0; lane < 16; ++lane) {
    const uint32_t bits = bits_of(a.v[lane]), odd = (bits >> dropped) & 1u;
    const uint32_t rounded = bits + ((1u << (dropped - 1)) - 1u) + odd;
    result.v[lane] = float_of(rounded >> dropped << dropped);
  }
  return result;
}
/// The larger of two absolute values; NaN wins over everything. Both arguments have no sign bit.
QAT_LANES_INLINE Lanes max_magnitude(Lanes a, Lanes b) {
  QAT_EACH_LANE(bits_of(a.v[lane]) > bits_of(b.v[lane]) ? a.v[lane] : b.v[lane]);
}

QAT_LANES_INLINE Mask at_least(Lanes a, Lanes b) {
  Mask mask{0};
  for (int lane = 0; lane < 16; ++lane) mask.bits |= uint32_t(a.v[lane] >= b.v[lane]) << lane;
  return mask;
}
QAT_LANES_INLINE Mask less(Lanes a, Lanes b) {
  Mask mask{0};
  for (int lane = 0; lane < 16; ++lane) mask.bits |= uint32_t(a.v[lane] < b.v[lane]) << lane;
  return mask;
}
QAT_LANES_INLINE Mask both(Mask a, Mask b) {
  return {a.bits & b.bits};
}
QAT_LANES_INLINE bool any(Mask a) {
  return a.bits != 0;
}
/// a where the mask is set, else b.
QAT_LANES_INLINE Lanes select(Mask mask, Lanes a, Lanes b) {
  QAT_EACH_LANE((mask.bits >> lane) & 1u ? a.v[lane] : b.v[lane]);
}
/// x where x is NaN, else value.
QAT_LANES_INLINE Lanes keep_nan(Lanes x, Lanes value) {
  QAT_EACH_LANE(x.v[lane] != x.v[lane] ? x.v[lane] : value.v[lane]);
}

/// table[index].
QAT_LANES_INLINE Lanes gather(const float* table, const uint8_t* index) {
  QAT_EACH_LANE(table[index[lane]]);
}

/// Indices in a dynamic map by its NearestTable entries.
QAT_LANES_INLINE void nearest(const uint32_t* entries, Lanes x, uint8_t* index) {
  for (int lane = 0; lane < 16; ++lane) {
    const uint32_t bits = bits_of(x.v[lane]), negative = bits >> 31;
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
  for (int width = 8; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) a.v[lane] += a.v[lane + width];
  return a.v[0];
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
  float result = a.v[0];
  for (int lane = 1; lane < 16; ++lane)
    result = bits_of(a.v[lane]) > bits_of(result) ? a.v[lane] : result;
  return result;
}

#undef QAT_EACH_LANE

}  // namespace qat::cpu::scalar
