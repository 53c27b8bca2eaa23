// The sixteen random bits of an element, by counter: those of kernels/cpu/vector/random_halves.h.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/random.h"

namespace qat::cuda {

QAT_DEVICE uint32_t random_half(uint64_t seed, uint64_t step, int64_t element) {
  const auto words = philox(seed, step, uint64_t(element / 128) * 16 + uint64_t(element % 16));
  const int which = int(element / 16 % 4);  // chosen without an index: the words stay in registers
  const uint32_t word =
      which < 2 ? (which == 0 ? words[0] : words[1]) : (which == 2 ? words[2] : words[3]);
  return element % 128 < 64 ? word & 0xFFFFu : word >> 16;
}

}  // namespace qat::cuda
