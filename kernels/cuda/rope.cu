// Rotary position embedding. Reads a tensor, writes one; x may be y: a thread reads both halves of
// what it writes first.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class T>
struct RopeRun {
  const T* x;
  const int32_t* positions;
  const float* cos_sin;
  T* y;
  int64_t cols;  ///< of a token
  int head_dim;
  float sign;

  /// i counts pairs: half as many as elements.
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    const int half = head_dim / 2;
    const int64_t token = i / (cols / 2), pair = i % (cols / 2);
    const int64_t head = pair / half, d = pair % half;
    const float* table = cos_sin + int64_t(positions[token]) * head_dim;
    const int64_t at = token * cols + head * head_dim + d;
    float cosine[kWidth], sine[kWidth], first[kWidth], second[kWidth];
    load(table + d, cosine);
    load(table + half + d, sine);
    load(x + at, first);
    load(x + at + half, second);
    for (int k = 0; k < kWidth; ++k) {
      const float s = sign * sine[k], a = first[k], b = second[k];
      first[k] = a * cosine[k] - b * s;
      second[k] = b * cosine[k] + a * s;
    }
    store(y + at, first);
    store(y + at + half, second);
  }
};

}  // namespace

void rope(const Rope& args, Stream& stream) {
  const int64_t tokens = args.positions_T.count();
  if (tokens == 0) return;
  const int64_t cols = args.x_TC.count() / tokens;
  const bool wide = fits_wide(args.head_dim / 2, args.x_TC.data, args.y_TC.data, args.cos_sin.data);
  with_float(args.x_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(
        stream, args.x_TC.count() / 2, wide,
        RopeRun<T>{args.x_TC.as<T>(), args.positions_T.as<int32_t>(), args.cos_sin.as<float>(),
                   args.y_TC.as<T>(), cols, args.head_dim, args.sign});
  });
}

}  // namespace qat::cuda
