#include "engine/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/quant/quant_plan.h"

namespace qat {

namespace {

constexpr int64_t kBlock = 256;

bool blockwise(int64_t count, int state_bits) {
  return state_bits == 8 && count >= kSmallestBlockwise;
}

// Their sizes differ from matrix to matrix, so one learning rate is right for all only in relation
// to them.
double root_mean_square(const View& scales) {
  double sum = 0.0;
  for (int64_t i = 0; i < scales.count(); ++i)
    sum += double(scales.as<float>()[i]) * double(scales.as<float>()[i]);
  return std::sqrt(sum / double(scales.count()));
}

}  // namespace

Optimizer::Optimizer(Store& store, const KernelTable& kernels, const OptimizerSettings& settings,
                     const std::vector<std::string>& names)
    : kernels_(kernels), settings_(settings) {
  for (const std::string& name : names) {
    const Shape shape = store.get(name).shape;
    const int64_t count = shape.count();
    Moments moments;
    const auto make = [&](const char* which, Shape s, DType dtype) {
      return store.make(std::string(which) + "." + name, s, dtype, Category::moments);
    };
    if (blockwise(count, settings.state_bits) && !is_weight_scale(name)) {
      const Shape blocks{(count + kBlock - 1) / kBlock};
      moments.m = make("moment1", shape, DType::u8);
      moments.v = make("moment2", shape, DType::u8);
      moments.m_absmax = make("moment1_absmax", blocks, DType::f32);
      moments.v_absmax = make("moment2_absmax", blocks, DType::f32);
    } else {
      moments.m = make("moment1", shape, DType::f32);
      moments.v = make("moment2", shape, DType::f32);
    }
    moments_.push_back({name, moments});
  }
  std::sort(moments_.begin(), moments_.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
}

const Optimizer::Moments& Optimizer::moments(const std::string& name) const {
  const auto found =
      std::lower_bound(moments_.begin(), moments_.end(), name,
                       [](const auto& a, const std::string& b) { return a.first < b; });
  if (found == moments_.end() || found->first != name)
    internal_error("optimizer: no moments of {}", name);
  return found->second;
}

void Optimizer::update(const std::vector<TrainedParameter>& parameters, int64_t step,
                       double learning_rate, double grad_scale, Stream& stream) {
  for (const TrainedParameter& p : parameters) {
    const Moments& state = moments(p.name);
    AdamW args;
    args.p = p.value;
    args.m = state.m;
    args.v = state.v;
    args.m_absmax = state.m_absmax;
    args.v_absmax = state.v_absmax;
    args.g = p.gradient;
    args.lr = float(learning_rate);
    args.beta1 = settings_.beta1;
    args.beta2 = settings_.beta2;
    args.eps = settings_.eps;
    const bool decays = p.value.shape.rank() > 1 && !is_codes_scale(p.name);
    args.weight_decay = decays ? settings_.weight_decay : 0.0f;
    args.grad_scale = float(grad_scale);
    args.step = step - p.joined;
    if (is_weight_scale(p.name)) {
      args.lr = float(learning_rate * settings_.scale_rate * root_mean_square(p.value));
      args.weight_decay = 0.0f;
    }
    // Noise of stochastic rounding must differ between tensors of one step.
    args.seed = settings_.seed ^ fnv1a(p.name);
    kernels_.adamw.run(args, stream);
  }
}

size_t Optimizer::moment_bytes(const std::vector<int64_t>& counts, int state_bits) {
  size_t bytes = 0;
  for (const int64_t count : counts)
    bytes += blockwise(count, state_bits)
                 ? size_t(count) * 2 + size_t((count + kBlock - 1) / kBlock) * 8
                 : size_t(count) * 8;
  return bytes;
}

}  // namespace qat
