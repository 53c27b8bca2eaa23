// The transform of kernels/hadamard.h, a piece of a row after the other.
#include "kernels/hadamard.h"

#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"
#include "kernels/cpu/workspace.h"

namespace qat::cpu {

// Hartley's numbers.
size_t hadamard_scratch_bytes(const Hadamard& args) {
  return size_t(hadamard_order(args.width).odd) * sizeof(float);
}

void hadamard(const Hadamard& args, Stream& stream) {
  const HadamardOrder order = hadamard_order(args.width);
  float* numbers = args.scratch.as<float>();
  for (int64_t k = 0; k < order.odd; ++k)
    numbers[k] = float(hartley(k, order.odd) / std::sqrt(double(order.odd)));
  over_ranges(
      stream, args.x_TC.count() / args.width, 1, args.width, [&](int64_t begin, int64_t end) {
        thread_local Workspace workspace;
        HadamardJob job;
        job.x = at(args.x_TC, begin * args.width);
        job.y = at(args.y_TC, begin * args.width);
        job.type = args.x_TC.dtype;
        job.pieces = end - begin;
        job.odd = order.odd;
        job.power = order.power;
        job.hartley = numbers;
        job.work = reinterpret_cast<float*>(workspace.get(2 * size_t(args.width) * sizeof(float)));
        vector_kernels().hadamard(job);
      });
}

}  // namespace qat::cpu
