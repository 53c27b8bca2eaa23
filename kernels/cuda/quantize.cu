// Codes, scales and zero points of a tensor: see grids.cu.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {

void quantize(const Quantize& args, Stream& stream) {
  if (!args.noise.step)
    return run_quantize(args.x, args.given_scale, args.given_zero, args.codes, args.scale,
                        args.zero, args.spec, stream);
  if (!args.given_scale) run_quantize(args.x, {}, {}, {}, args.scale, args.zero, args.spec, stream);
  run_stochastic(args.x, args.given_scale ? args.given_scale : ConstView(args.scale),
                 args.given_scale ? args.given_zero : ConstView(args.zero), args.codes, args.spec,
                 args.noise, stream);
}

}  // namespace qat::cuda
