// Codes, scales and zero points of a tensor.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/grids.h"

namespace qat::cpu {

void quantize(const Quantize& args, Stream& stream) {
  if (!args.noise.step)
    return run_quantize(args.x, args.given_scale, args.given_zero, args.codes, args.scale,
                        args.zero, args.spec, stream);
  if (!args.given_scale) run_quantize(args.x, {}, {}, {}, args.scale, args.zero, args.spec, stream);
  run_stochastic(args.x, args.given_scale ? args.given_scale : ConstView(args.scale),
                 args.given_scale ? args.given_zero : ConstView(args.zero), args.codes, args.spec,
                 args.noise, stream);
}

}  // namespace qat::cpu
