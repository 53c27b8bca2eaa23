// Dropout by counter: the sixteen bits that decide over an element are a function of seed, step and
// the element's place in the whole batch, so that micro-batches, threads, recomputation and resume
// change nothing. One Philox call serves eight elements.
#include <array>
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/float_types.h"
#include "kernels/random.h"

namespace qat::cpu {
namespace {

template <class T>
void drop(const Dropout& args, Stream& stream) {
  const int64_t step = args.position.as<int64_t>()[0];
  const int64_t first = args.position.as<int64_t>()[1] * args.x_TC.cols();
  const uint32_t threshold = uint32_t(std::lround(args.rate * 65536.0f));
  const float keep = 65536.0f / float(65536 - threshold);
  over_ranges(stream, args.x_TC.count(), 64, 4, [&](int64_t begin, int64_t end) {
    std::array<uint32_t, 4> words{};
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t element = uint64_t(first + i);
      if (i == begin || element % 8 == 0) words = philox(args.seed, uint64_t(step), element / 8);
      const uint32_t bits = words[element % 8 / 2] >> (element % 2 * 16) & 0xFFFFu;
      const float x = to_float(args.x_TC.as<T>()[i]);
      args.y_TC.as<T>()[i] = narrow<T>(bits >= threshold ? x * keep : 0.0f);
    }
  });
}

}  // namespace

void dropout(const Dropout& args, Stream& stream) {
  if (args.x_TC.dtype == DType::f32)
    drop<float>(args, stream);
  else
    drop<BFloat16>(args, stream);
}

}  // namespace qat::cpu
