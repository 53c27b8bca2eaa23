// How a tensor falls into segments that share a scale, and the grid of a whole tensor.
#pragma once

#include "kernels/cpu/vector/vector_kernels.h"
#include "kernels/kernels.h"

namespace qat::cpu {

/// `segments` runs of `length` elements. Per::tensor: pieces of the tensor that all use scale 0.
struct Segments {
  int64_t segments, length;
};

/// Per::row and Per::group.
Segments segments_of(const ConstView& x, const QuantSpec& spec);

/// A whole tensor is reduced in this many fixed chunks; chunk_of gives the elements of one.
constexpr int64_t kChunks = 64;
struct Chunk {
  int64_t begin, end;
};
Chunk chunk_of(int64_t count, int64_t index);

/// The grid of all of x (Per::tensor), and inverse_scale. The same for any number of threads.
struct TensorGrid {
  Grid grid;
  float inverse;
};
TensorGrid tensor_grid(const ConstView& x, const QuantSpec& spec, const Stream& stream);

/// Rounds x at random onto the grids in `scale` and `zero` (which may be empty).
void run_stochastic(const ConstView& x, const ConstView& scale, const ConstView& zero,
                    const View& y, const QuantSpec& spec, const RoundingNoise& noise,
                    const Stream& stream);

/// Runs quantize or fake quantize: y holds codes (i8), values, or is empty for the grid alone.
void run_quantize(const ConstView& x, const ConstView& given_scale, const ConstView& given_zero,
                  const View& y, const View& scale, const View& zero, const QuantSpec& spec,
                  const Stream& stream);

}  // namespace qat::cpu
