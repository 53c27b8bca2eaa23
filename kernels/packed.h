// Frozen weights in few bits, as bitsandbytes lays them out: NF4 and FP4 codes two to a byte, the
// first element in the high nibble, one absmax for 64 consecutive elements of the whole matrix; or
// int8 codes with one absmax a row. With double quantization the absmax values themselves are
// 8-bit entries of the signed dynamic map in blocks of 256, after their mean is taken off.
// Source of the format: bitsandbytes functional.py (get_4bit_type, quantize_4bit) and csrc.
#pragma once

#include <array>

#include "kernels/host_device.h"
#include "kernels/view.h"

namespace qat {

enum class PackedType : uint8_t { int8, nf4, fp4 };

struct PackedSpec {
  PackedType type = PackedType::nf4;
  bool double_quant = false;  ///< of NF4 and FP4
  friend bool operator==(const PackedSpec&, const PackedSpec&) = default;
};

constexpr int64_t kPackedBlock = 64;   ///< elements under one absmax (NF4, FP4)
constexpr int64_t kAbsmaxBlock = 256;  ///< absmax values under one nested absmax

/// What a packed matrix [O, K] consists of. absmax is f32, or u8 entries of the signed dynamic map
/// when the two nested parts are there.
template <class AnyView>
struct BasicPacked {
  AnyView codes, absmax, nested_absmax, nested_offset;
  Shape shape;
  PackedSpec spec;
};
using PackedParts = BasicPacked<View>;
using PackedView = BasicPacked<ConstView>;

/// Shapes of the parts; an absent one has no elements.
struct PackedShapes {
  Shape codes, absmax, nested_absmax{0}, nested_offset{0};
  DType codes_type = DType::u8, absmax_type = DType::f32;
};
inline PackedShapes packed_shapes(const Shape& shape, const PackedSpec& spec) {
  if (spec.type == PackedType::int8)
    return {.codes = shape, .absmax = {shape.rows()}, .codes_type = DType::i8};
  const int64_t blocks = (shape.count() + kPackedBlock - 1) / kPackedBlock;
  PackedShapes shapes{.codes = {(shape.count() + 1) / 2}, .absmax = {blocks}};
  if (!spec.double_quant) return shapes;
  shapes.absmax_type = DType::u8;
  shapes.nested_absmax = {(blocks + kAbsmaxBlock - 1) / kAbsmaxBlock};
  shapes.nested_offset = {1};
  return shapes;
}
/// Bytes of all parts together.
inline size_t packed_bytes(const Shape& shape, const PackedSpec& spec) {
  const PackedShapes s = packed_shapes(shape, spec);
  return size_t(s.codes.count()) + size_t(s.absmax.count()) * size_of(s.absmax_type) +
         size_t(s.nested_absmax.count() + s.nested_offset.count()) * sizeof(float);
}

using CodeTable = std::array<float, 16>;
/// Quantiles of the normal distribution, scaled to [-1, 1], ascending.
constexpr CodeTable kNf4 = {-1.0f,
                            -0.6961928009986877f,
                            -0.5250730514526367f,
                            -0.39491748809814453f,
                            -0.28444138169288635f,
                            -0.18477343022823334f,
                            -0.09105003625154495f,
                            0.0f,
                            0.07958029955625534f,
                            0.16093020141124725f,
                            0.24611230194568634f,
                            0.33791524171829224f,
                            0.44070982933044434f,
                            0.5626170039176941f,
                            0.7229568362236023f,
                            1.0f};
/// One sign, two exponent and one mantissa bit of a format of its own, scaled to [-1, 1]. The bits
/// of a code are no order: kFp4Ascending lists the codes by magnitude.
constexpr CodeTable kFp4 = {
    0.0f,  0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    -0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};
constexpr std::array<uint8_t, 8> kFp4Ascending = {0, 1, 6, 7, 4, 5, 2, 3};

constexpr const CodeTable& code_table(PackedType type) {
  return type == PackedType::nf4 ? kNf4 : kFp4;
}

/// The nearest entry of x in [-1, 1]; at a midpoint the lower one.
inline uint8_t nearest_nf4(float x) {
  int code = 0;
  for (size_t i = 0; i < 15; ++i) code += x > (kNf4[i] + kNf4[i + 1]) / 2;
  return uint8_t(code);
}
/// The nearest magnitude (at a midpoint the smaller one) with the sign of x.
inline uint8_t nearest_fp4(float x) {
  const float size = x < 0 ? -x : x;
  size_t place = 0;
  for (size_t i = 0; i < 7; ++i)
    place += size > (kFp4[kFp4Ascending[i]] + kFp4[kFp4Ascending[i + 1]]) / 2;
  return uint8_t(kFp4Ascending[place] | (x < 0 ? 8 : 0));
}

}  // namespace qat
