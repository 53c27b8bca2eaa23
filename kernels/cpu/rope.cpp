// Rotary position embedding.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void rope(const Rope& args, Stream& stream) {
  const int64_t tokens = args.positions_T.count();
  if (tokens == 0) return;
  const int64_t cols = args.x_TC.count() / tokens;
  over_ranges(stream, tokens, 1, cols, [&](int64_t begin, int64_t end) {
    RopeJob job;
    job.x = at(args.x_TC, begin * cols);
    job.positions = args.positions_T.as<int32_t>() + begin;
    job.cos_sin = args.cos_sin.as<float>();
    job.y = at(args.y_TC, begin * cols);
    job.type = args.x_TC.dtype;
    job.tokens = end - begin;
    job.heads = cols / args.head_dim;
    job.head_dim = args.head_dim;
    job.sign = args.sign;
    vector_kernels().rope(job);
  });
}

}  // namespace qat::cpu
