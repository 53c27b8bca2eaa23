// Quantize and dequantize in one read (grids.cu), and the straight-through gradient, which reads dy
// and x once and writes dx once.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {
namespace {

template <class X, class Upstream, class Gradient>
struct StraightThroughRun {
  const Upstream* dy;
  const X* x;
  const float *scale, *zero;  ///< zero may be null
  Gradient* dx;
  int64_t length;
  QuantSpec spec;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int64_t segment = i / length;
    const Grid grid = stored_grid(spec, scale[segment], zero ? zero[segment] : 0.0f);
    const float inverse = 1.0f / grid.scale;
    const CodeRange range = code_range(spec);
    float v[kWidth], d[kWidth];
    load(x + i, v);
    load(dy + i, d);
    for (int k = 0; k < kWidth; ++k) {
      const bool passes = spec.form == Form::e4m3
                              ? magnitude(v[k] * inverse) <= kEndE4m3
                              : passes_gradient(v[k] - grid.minimum, inverse, grid.zero, range);
      if (!passes) d[k] = 0.0f;
    }
    store(dx + i, d);
  }
};

}  // namespace

void fake_quant(const FakeQuant& args, Stream& stream) {
  if (!args.noise.step)
    return run_quantize(args.x, args.given_scale, args.given_zero, args.y, args.scale, args.zero,
                        args.spec, stream);
  if (!args.given_scale) run_quantize(args.x, {}, {}, {}, args.scale, args.zero, args.spec, stream);
  run_stochastic(args.x, args.given_scale ? args.given_scale : ConstView(args.scale),
                 args.given_scale ? args.given_zero : ConstView(args.zero), args.y, args.spec,
                 args.noise, stream);
}

void fake_quant_backward(const FakeQuantBackward& args, Stream& stream) {
  const int64_t length = segment_length(args.x, args.spec);
  if (args.x.count() == 0) return;
  const bool wide = fits_wide(length, args.x.data, args.dy.data, args.dx.data);
  const float* zero = args.zero ? args.zero.as<float>() : nullptr;
  with_float(args.x.dtype, [&](auto x) {
    with_float(args.dy.dtype, [&](auto dy) {
      with_float(args.dx.dtype, [&](auto dx) {
        using X = decltype(x);
        using Upstream = decltype(dy);
        using Gradient = decltype(dx);
        elementwise(stream, args.x.count(), wide,
                    StraightThroughRun<X, Upstream, Gradient>{
                        args.dy.as<Upstream>(), args.x.as<X>(), args.scale.as<float>(), zero,
                        args.dx.as<Gradient>(), length, args.spec});
      });
    });
  });
}

}  // namespace qat::cuda
