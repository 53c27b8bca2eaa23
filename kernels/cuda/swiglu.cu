// silu(gate) * up and its gradient. Forward reads two tensors and writes one, backward reads three
// and writes two.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

QAT_DEVICE float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <class T>
struct SwiGluRun {
  const T *gate, *up;
  T* y;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float g[kWidth], u[kWidth];
    load(gate + i, g);
    load(up + i, u);
    for (int k = 0; k < kWidth; ++k) u[k] = g[k] * sigmoid(g[k]) * u[k];
    store(y + i, u);
  }
};

template <class T>
struct SwiGluBackwardRun {
  const T *dy, *gate, *up;
  T *dgate, *dup;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float d[kWidth], g[kWidth], u[kWidth];
    load(dy + i, d);
    load(gate + i, g);
    load(up + i, u);
    for (int k = 0; k < kWidth; ++k) {
      const float s = sigmoid(g[k]), upstream = d[k];
      d[k] = upstream * u[k] * (s * (1.0f + g[k] * (1.0f - s)));
      u[k] = upstream * (g[k] * s);
    }
    store(dgate + i, d);
    store(dup + i, u);
  }
};

}  // namespace

void swiglu(const SwiGlu& args, Stream& stream) {
  const auto& [gate, up, y] = args;
  const bool wide = fits_wide(y.count(), gate.data, up.data, y.data);
  with_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.y_TF.count(), wide,
                SwiGluRun<T>{args.gate_TF.as<T>(), args.up_TF.as<T>(), args.y_TF.as<T>()});
  });
}

void swiglu_backward(const SwiGluBackward& args, Stream& stream) {
  const auto& [dy, gate, up, dgate, dup] = args;
  const bool wide = fits_wide(dy.count(), dy.data, gate.data, up.data, dgate.data, dup.data);
  with_float(dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, args.dy_TF.count(), wide,
                SwiGluBackwardRun<T>{args.dy_TF.as<T>(), args.gate_TF.as<T>(), args.up_TF.as<T>(),
                                     args.dgate_TF.as<T>(), args.dup_TF.as<T>()});
  });
}

}  // namespace qat::cuda
