// Single elements of weights and activations, whatever they are stored in.
#pragma once

#include "kernels/float_types.h"
#include "kernels/view.h"

namespace qat {

/// Element i of an f32 or bf16 view.
inline float value_at(const ConstView& view, int64_t i) {
  return view.dtype == DType::f32 ? view.as<float>()[i] : to_float(view.as<BFloat16>()[i]);
}

}  // namespace qat
