// One token of the head's loss, for each instruction set.
#pragma once

#include "kernels/view.h"

namespace qat::cpu {

/// The logits of one token, and what is wanted of them. Rows hold room for padded_vocabulary()
/// floats.
struct LossRow {
  float* logits;
  float* teacher;  ///< null: no distillation
  int64_t vocabulary;
  int64_t target;
  float temperature;
  float ce_gradient, kl_gradient;  ///< of the loss by ce and by kl of this token
  /// Set: the gradient by the logits replaces them, as f32 or, packed from the same address, bf16.
  const DType* gradient;
};

struct LossValues {
  double ce, kl;
  bool hit;  ///< the target is the first of the largest logits
};

inline int64_t padded_vocabulary(int64_t vocabulary) {
  return (vocabulary + 31) / 32 * 32;
}

using LossOfRow = LossValues (*)(const LossRow&);

LossValues loss_of_row_sse2(const LossRow&);
LossValues loss_of_row_avx2(const LossRow&);
LossValues loss_of_row_avx512(const LossRow&);

}  // namespace qat::cpu
