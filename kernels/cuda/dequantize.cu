// Values of codes. Reads a byte an element, writes the values.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {
namespace {

/// Where the scale of an element lies.
struct ScaleIndex {
  int64_t length;          ///< elements that share a scale, where groups are runs
  const int32_t* group_K;  ///< else the group of each column
  int64_t cols, groups;
  QAT_DEVICE int64_t of(int64_t i) const {
    return group_K ? i / cols * groups + group_K[i % cols] : i / length;
  }
};

template <class T>
struct ValuesRun {
  const int8_t* codes;
  const float *scale, *zero;  ///< zero may be null
  T* y;
  ScaleIndex index;
  QuantSpec spec;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth];
    if (spec.form == Form::e4m3) {
      for (int k = 0; k < kWidth; ++k) {
        const float by = scale[index.of(i + k)];
        v[k] = e4m3_value(uint8_t(codes[i + k])) * by;
      }
    } else {
      load(codes + i, v);
      for (int k = 0; k < kWidth; ++k) {
        const int64_t at = index.of(i + k);
        const Grid grid = stored_grid(spec, scale[at], zero ? zero[at] : 0.0f);
        v[k] = (v[k] - grid.zero) * grid.scale;
        // Listed groups add their minimum even where it is 0, as the CPU does: no value is -0.
        if (spec.counts_from_minimum() || index.group_K) v[k] += grid.minimum;
      }
    }
    store(y + i, v);
  }
};

}  // namespace

void dequantize(const Dequantize& args, Stream& stream) {
  const int64_t rows = args.codes.rows(), cols = args.codes.cols(), count = args.codes.count();
  if (count == 0) return;
  const ScaleIndex index{segment_length(args.codes, args.spec), args.group_K.as<int32_t>(), cols,
                         args.scale.count() / rows};
  const bool wide = fits_wide(count, args.codes.data, args.y.data);
  with_float(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    elementwise(stream, count, wide,
                ValuesRun<T>{args.codes.as<int8_t>(), args.scale.as<float>(), args.zero.as<float>(),
                             args.y.as<T>(), index, args.spec});
  });
}

}  // namespace qat::cuda
