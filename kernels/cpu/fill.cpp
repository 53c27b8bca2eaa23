// One value everywhere.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/float_types.h"

namespace qat::cpu {

void fill(const Fill& args, Stream& stream) {
  const View& y = args.y;
  over_ranges(stream, y.count(), 64, 1, [&](int64_t begin, int64_t end) {
    if (y.dtype == DType::f32)
      std::fill_n(y.as<float>() + begin, end - begin, args.value);
    else
      std::fill_n(y.as<uint16_t>() + begin, end - begin, to_bfloat16(args.value).bits);
  });
}

}  // namespace qat::cpu
