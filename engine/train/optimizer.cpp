#include "engine/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/quant/quant_plan.h"

namespace qat {

namespace {

bool blockwise(int64_t count, int state_bits) {
  return state_bits == 8 && count >= kSmallestBlockwise;
}

double sum_squares(const View& values) {
  double sum = 0.0;
  for (int64_t i = 0; i < values.count(); ++i)
    sum += double(values.as<float>()[i]) * double(values.as<float>()[i]);
  return sum;
}

}  // namespace

MomentName moment_name(const std::string& tensor) {
  for (const std::string_view prefix : {"moment1.", "moment2."})
    if (tensor.starts_with(prefix)) return {tensor.substr(prefix.size()), false};
  for (const std::string_view prefix : {"moment1_absmax.", "moment2_absmax."})
    if (tensor.starts_with(prefix)) return {tensor.substr(prefix.size()), true};
  return {};
}

Optimizer::Optimizer(Store& store, const KernelTable& kernels, const OptimizerSettings& settings,
                     const std::vector<std::string>& names, const Sharding& sharding)
    : kernels_(kernels), settings_(settings), sharding_(sharding) {
  for (const std::string& name : names) {
    const Shape shape = store.get(name).shape;
    const Partition* rows = sharding_.partition(name);
    const int64_t held = shape.count(), count = rows ? rows->count() : held;
    Moments moments;
    const auto make = [&](const char* which, Shape s, DType dtype) {
      return store.make(std::string(which) + "." + name, s, dtype, Category::moments);
    };
    if (blockwise(count, settings.state_bits) && !is_weight_scale(name)) {
      const Shape blocks{(held + kMomentBlock - 1) / kMomentBlock};
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

// Sizes of scales differ from matrix to matrix, so one learning rate is right for all only in
// relation to them. Summed over the ranks' rows, also where every rank holds all of them.
double Optimizer::root_mean_square(const std::string& name, const View& scales) const {
  const Partition* rows = sharding_.shared() ? sharding_.partition(name) : nullptr;
  if (!rows) return std::sqrt(sum_squares(scales) / double(scales.count()));
  const View own = sharding_.splits_masters() ? scales : rows_of(scales, sharding_.own(*rows));
  double sum[1] = {sum_squares(own)};
  sharding_.ranks->all_reduce(std::span<double>(sum));
  return std::sqrt(sum[0] / double(rows->count()));
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
      args.lr = float(learning_rate * settings_.scale_rate * root_mean_square(p.name, p.value));
      args.weight_decay = 0.0f;
    }
    // Noise of stochastic rounding must differ between tensors of one step.
    args.seed = settings_.seed ^ fnv1a(p.name);
    if (const Partition* rows = sharding_.partition(p.name); rows && sharding_.splits_masters())
      args.first_element = sharding_.own(*rows).begin * rows->cols();
    kernels_.adamw.run(args, stream);
  }
}

size_t Optimizer::moment_bytes(int64_t held, int64_t count, int state_bits) {
  if (!blockwise(count, state_bits)) return size_t(held) * 8;
  return size_t(held) * 2 + size_t((held + kMomentBlock - 1) / kMomentBlock) * 8;
}

}  // namespace qat
