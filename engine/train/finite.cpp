// Searching tensors for NaN and Inf: an exponent of all ones, in any of the float formats.
#include "engine/train/finite.h"

#include <algorithm>

namespace qat {
namespace {

template <class Bits>
int64_t first_with_exponent(const Bits* x, int64_t count, Bits exponent) {
  constexpr int64_t kBlock = 4096;  // a loop without an exit vectorises; a block bounds the rescan
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    Bits found = 0;
    for (int64_t i = begin; i < end; ++i) found |= Bits((x[i] & exponent) == exponent);
    if (found == 0) continue;
    for (int64_t i = begin; i < end; ++i)
      if ((x[i] & exponent) == exponent) return i;
  }
  return -1;
}

}  // namespace

int64_t first_not_finite(ConstView view) {
  switch (view.dtype) {
    case DType::f32:
      return first_with_exponent(view.as<uint32_t>(), view.count(), 0x7f800000u);
    case DType::bf16:
      return first_with_exponent(view.as<uint16_t>(), view.count(), uint16_t(0x7f80));
    case DType::f16:
      return first_with_exponent(view.as<uint16_t>(), view.count(), uint16_t(0x7c00));
    default:
      return -1;
  }
}

}  // namespace qat
