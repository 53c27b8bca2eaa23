// Codes, scales and zero points of a tensor.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"

namespace qat::cpu {

void quantize(const Quantize& args, Stream& stream) {
  run_quantize(args.x, args.given_scale, args.given_zero, args.codes, args.scale, args.zero,
               args.spec, stream);
}

}  // namespace qat::cpu
