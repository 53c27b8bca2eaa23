// The loops that are compiled once per instruction set, on plain pointers. The functions of
// kernels/cpu/*.cpp split the work over threads and call these.
#pragma once

#include <cstdint>

#include "kernels/quant_math.h"
#include "kernels/view.h"

namespace qat::cpu {

/// `segments` runs of `length` consecutive elements, each run with its own scale.
struct SegmentJob {
  const void* x;
  DType x_type;  ///< f32 or bf16
  void* y;       ///< i8: codes; f32 or bf16: values on the grid; null: the grids alone
  DType y_type;
  const float *given_scale, *given_zero;  ///< null: computed (a null zero with a scale: 0)
  const float* given_inverse;             ///< null: 1 / given_scale
  float *scale, *zero;                    ///< null: not wanted; zero: second_of the grid
  int64_t segments, length;
  QuantSpec spec;
};

/// Segments on given grids, rounded at random; first: index in the tensor of the first element.
struct StochasticJob {
  SegmentJob segments;
  uint64_t seed;
  int64_t step, first;
};

struct DequantizeJob {
  const int8_t* codes;
  const float *scale, *zero;  ///< zero may be null
  void* y;
  DType y_type;
  int64_t segments, length;
  QuantSpec spec;
};

struct GradientJob {
  const void *dy, *x;
  DType dy_type, x_type;
  const float *scale, *zero;  ///< zero may be null
  void* dx;
  DType dx_type;
  int64_t segments, length;
  QuantSpec spec;
};

/// GradientJob with the gradient of each segment's scale, times `gain`.
struct ScaleGradientJob {
  GradientJob gradient;
  float* dscale;
  float gain;
};

struct NormJob {
  const void* x;
  const float* weight;
  void* y;
  float* rstd;
  DType type;
  int64_t rows, cols;
  float eps;
};

struct NormBackwardJob {
  const void *dy, *x;
  const float *weight, *rstd;
  const void* residual;  ///< may be null
  void* dx;
  float* dweight;  ///< overwritten with the sum over these rows
  DType type;
  int64_t rows, cols;
};

struct RopeJob {
  const void* x;
  const int32_t* positions;
  const float* cos_sin;
  void* y;
  DType type;
  int64_t tokens, heads;
  int head_dim;
  float sign;
};

/// Pieces of odd * power elements; hartley[k] is that of kernels/hadamard.h over the root of odd.
/// work: 2 * odd * power floats.
struct HadamardJob {
  const void* x;
  void* y;
  DType type;
  int64_t pieces, odd, power;
  const float* hartley;
  float* work;
};

/// `p` may be bf16 (then rounded stochastically); m and v are f32, or u8 with block maxima.
struct AdamWJob {
  void* p;
  DType p_type;
  const void* g;
  DType g_type;
  void *m, *v;
  float *m_absmax, *v_absmax;  ///< null: m and v are f32
  BFloat16* copy;              ///< may be null
  int64_t first, count;        ///< elements [first, first + count); first is a multiple of 256
  float beta1, beta2, step_size, grad_scale;
  float eps;   ///< eps * sqrt(1 - beta2^t)
  float keep;  ///< 1 - lr * weight decay
  uint64_t seed;
  int64_t step;
  int64_t first_element;                  ///< of the parameter that p begins with
  const float *m_map, *v_map;             ///< DynamicMap, for u8 states
  const uint32_t *m_nearest, *v_nearest;  ///< NearestTable entries, for u8 states
};

/// One table an instruction set.
struct VectorKernels {
  void (*convert)(const void* x, DType x_type, void* y, DType y_type, int64_t count);
  void (*add)(const void* a, const void* b, void* y, DType type, int64_t count);
  /// out (f32) += x.
  void (*accumulate)(float* out, const void* x, DType type, int64_t count);
  /// out (f32) += x * times.
  void (*accumulate_product)(float* out, const void* x, const void* times, DType type,
                             int64_t count);
  /// y = x * factor (+ bias); a null factor stands for `by`, bias may be null. y may be x.
  void (*scale)(const void* x, void* y, DType type, const float* factor, float by,
                const float* bias, int64_t count);
  /// y += bias, row by row.
  void (*add_bias)(void* y, DType type, const float* bias, int64_t rows, int64_t cols);
  void (*rms_norm)(const NormJob&);
  void (*rms_norm_backward)(const NormBackwardJob&);
  void (*rope)(const RopeJob&);
  void (*hadamard)(const HadamardJob&);
  void (*swiglu)(const void* gate, const void* up, void* y, DType type, int64_t count);
  void (*swiglu_backward)(const void* dy, const void* gate, const void* up, void* dgate, void* dup,
                          DType type, int64_t count);
  Extent (*extent)(const void* x, DType type, int64_t count);
  /// The extent of the values alone; {infinity, -infinity} of none.
  Extent (*bare_extent)(const void* x, DType type, int64_t count);
  /// The first value of largest magnitude.
  float (*peak)(const void* x, DType type, int64_t count);
  void (*quantize)(const SegmentJob&);
  void (*quantize_stochastically)(const StochasticJob&);
  /// errors[i] = sum of squared errors of x on grids[i].
  void (*grid_errors)(const void* x, DType type, int64_t count, const QuantSpec&, const Grid* grids,
                      int grid_count, float* errors);
  void (*dequantize)(const DequantizeJob&);
  void (*gradient)(const GradientJob&);
  /// out = stored_scale(raw), or trained_scale(raw) where what is negative counts as 0.
  void (*round_scale)(const float* raw, float* out, ScaleType type, NegativeScale negative,
                      int64_t count);
  void (*scale_gradient)(const ScaleGradientJob&);
  /// amax = max(amax, |x|).
  void (*column_amax)(float* amax, const void* x, DType type, int64_t count);
  /// sum of squares; *bad is increased by the number of non-finite values.
  double (*sum_squares)(const void* x, DType type, int64_t count, int64_t* bad);
  void (*adamw)(const AdamWJob&);
};

/// The table for the instruction set in use.
const VectorKernels& vector_kernels();

namespace scalar {
void fill_elementwise(VectorKernels&);
void fill_norm(VectorKernels&);
void fill_hadamard(VectorKernels&);
void fill_quantize(VectorKernels&);
void fill_trained_scale(VectorKernels&);
void fill_stochastic(VectorKernels&);
void fill_statistics(VectorKernels&);
void fill_adamw(VectorKernels&);
}  // namespace scalar
namespace avx2 {
using FillFunction = void(VectorKernels&);
FillFunction fill_elementwise, fill_norm, fill_hadamard, fill_quantize, fill_trained_scale,
    fill_stochastic, fill_statistics, fill_adamw;
}  // namespace avx2
namespace avx512 {
using FillFunction = void(VectorKernels&);
FillFunction fill_elementwise, fill_norm, fill_hadamard, fill_quantize, fill_trained_scale,
    fill_stochastic, fill_statistics, fill_adamw;
}  // namespace avx512

}  // namespace qat::cpu
