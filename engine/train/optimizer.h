// AdamW over the parameters of a Store, with f32 or 8-bit block-wise moments (Dettmers et al.,
// 2022).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/dist/sharding.h"
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

/// The parameter that a tensor of the Store holds moments of, empty if it holds none; in_blocks:
/// one number a block.
struct MomentName {
  std::string parameter;
  bool in_blocks = false;
};
MomentName moment_name(const std::string& tensor);

/// Tensors below this keep f32 moments (bitsandbytes' rule), and so do trained scales.
constexpr int64_t kSmallestBlockwise = 4096;

class Optimizer {
 public:
  /// Makes the moments in the Store: moment1.NAME, moment2.NAME and with 8 bits
  /// moment1_absmax.NAME, moment2_absmax.NAME. They cover what the Store holds of a parameter: all
  /// of it, or this rank's rows.
  Optimizer(Store& store, const KernelTable& kernels, const OptimizerSettings& settings,
            const std::vector<std::string>& names, const Sharding& sharding = {});

  /// One update of every parameter. step counts from 1; gradients are multiplied by grad_scale.
  void update(const std::vector<TrainedParameter>& parameters, int64_t step, double learning_rate,
              double grad_scale, Stream& stream);

  /// Bytes the moments of `held` elements of a parameter of `count` (no trained scale) take.
  static size_t moment_bytes(int64_t held, int64_t count, int state_bits);

 private:
  struct Moments {
    View m, v, m_absmax, v_absmax;
  };
  const Moments& moments(const std::string& name) const;
  double root_mean_square(const std::string& name, const View& scales) const;

  const KernelTable& kernels_;
  OptimizerSettings settings_;
  Sharding sharding_;
  std::vector<std::pair<std::string, Moments>> moments_;  // sorted by name
};

}  // namespace qat
