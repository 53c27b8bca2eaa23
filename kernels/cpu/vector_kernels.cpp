// Chooses the loops for the processor.
#include "kernels/cpu/vector/vector_kernels.h"

#include "kernels/cpu/isa.h"

namespace qat::cpu {
namespace {

VectorKernels fill_table() {
  VectorKernels table{};
  if (isa() >= Isa::avx512) {
    avx512::fill_elementwise(table);
    avx512::fill_norm(table);
    avx512::fill_hadamard(table);
    avx512::fill_quantize(table);
    avx512::fill_trained_scale(table);
    avx512::fill_stochastic(table);
    avx512::fill_statistics(table);
    avx512::fill_adamw(table);
  } else if (isa() >= Isa::avx2) {
    avx2::fill_elementwise(table);
    avx2::fill_norm(table);
    avx2::fill_hadamard(table);
    avx2::fill_quantize(table);
    avx2::fill_trained_scale(table);
    avx2::fill_stochastic(table);
    avx2::fill_statistics(table);
    avx2::fill_adamw(table);
  } else {
    scalar::fill_elementwise(table);
    scalar::fill_norm(table);
    scalar::fill_hadamard(table);
    scalar::fill_quantize(table);
    scalar::fill_trained_scale(table);
    scalar::fill_stochastic(table);
    scalar::fill_statistics(table);
    scalar::fill_adamw(table);
  }
  return table;
}

}  // namespace

const VectorKernels& vector_kernels() {
  static const VectorKernels table = fill_table();
  return table;
}

}  // namespace qat::cpu
