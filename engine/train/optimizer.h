// AdamW over the parameters of a Store, with f32 or 8-bit block-wise moments (Dettmers et al.,
// 2022).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/runtime/store.h"
#include "kernels/kernels.h"

namespace qat {

struct OptimizerSettings {
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float weight_decay = 0.0f;  ///< of matrices; norms and biases are not decayed
  int state_bits = 32;        ///< 32 or 8
  /// Trained scales take steps of learning_rate * this * the RMS of their matrix's scales.
  double scale_rate = 0.0;
  uint64_t seed = 0;  ///< of stochastic rounding (bf16 parameters)
};

/// A parameter, and where its gradient lies.
struct TrainedParameter {
  std::string name;
  View value;
  View gradient;
  int64_t joined = 0;  ///< steps of the run before its first
};

/// Tensors below this keep f32 moments (bitsandbytes' rule), and so do trained scales.
constexpr int64_t kSmallestBlockwise = 4096;

class Optimizer {
 public:
  /// Makes the moments in the Store: moment1.NAME, moment2.NAME and with 8 bits their .absmax.
  Optimizer(Store& store, const KernelTable& kernels, const OptimizerSettings& settings,
            const std::vector<std::string>& names);

  /// One update of every parameter. step counts from 1; gradients are multiplied by grad_scale.
  void update(const std::vector<TrainedParameter>& parameters, int64_t step, double learning_rate,
              double grad_scale, Stream& stream);

  /// Bytes the moments of parameters of these sizes (not of trained scales) take.
  static size_t moment_bytes(const std::vector<int64_t>& counts, int state_bits);

 private:
  struct Moments {
    View m, v, m_absmax, v_absmax;
  };
  const Moments& moments(const std::string& name) const;

  const KernelTable& kernels_;
  OptimizerSettings settings_;
  std::vector<std::pair<std::string, Moments>> moments_;  // sorted by name
};

}  // namespace qat
