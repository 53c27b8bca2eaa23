// Conversion between f32 and bf16. Reads a tensor, writes one.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class From, class To>
struct CastRun {
  const From* x;
  To* y;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth];
    load(x + i, v);
    store(y + i, v);
  }
};

}  // namespace

void cast(const Cast& args, Stream& stream) {
  const bool wide = fits_wide(args.x.count(), args.x.data, args.y.data);
  with_float(args.x.dtype, [&](auto from) {
    with_float(args.y.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      elementwise(stream, args.x.count(), wide,
                  CastRun<From, To>{args.x.as<From>(), args.y.as<To>()});
    });
  });
}

}  // namespace qat::cuda
