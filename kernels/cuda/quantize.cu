// Codes, scales and zero points of a tensor: see grids.cu.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/grids.h"

namespace qat::cuda {

void quantize(const Quantize& args, Stream& stream) {
  run_quantize(args.x, args.given_scale, args.given_zero, args.codes, args.scale, args.zero,
               args.spec, stream);
}

}  // namespace qat::cuda
