#include "engine/ptq/trained_scales.h"

#include <cmath>

#include "engine/core/error.h"
#include "engine/ops/ops.h"
#include "engine/ptq/values.h"
#include "kernels/quant_math.h"

namespace qat {

namespace {

// Elements that share a scale follow each other.
void lsq_start(const View& w, const QuantSpec& spec, const View& scale) {
  const int64_t shared = w.count() / scale.count();
  for (int64_t s = 0; s < scale.count(); ++s) {
    double sum = 0.0;
    for (int64_t i = s * shared; i < (s + 1) * shared; ++i)
      sum += double(magnitude(value_at(w, i)));
    scale.as<float>()[s] = float(2.0 * (sum / double(shared)) / std::sqrt(double(spec.qmax())));
  }
}

}  // namespace

int64_t start_trained_scales(const QuantPlan& plan, ScaleStart start,
                             const std::function<bool(const std::string& path)>& wanted,
                             Store& store, const KernelTable& kernels, Stream& stream) {
  int64_t started = 0;
  for (const auto& [path, quant] : plan.linears) {
    if (!quant.trained_scale || !wanted(path)) continue;
    const QuantSpec& spec = *quant.weight;
    const View w = store.get(path + ".weight");
    const Shape shape = scale_shape(w.shape, spec);
    const View scale = store.make(weight_scale_name(path), shape, DType::f32, Category::masters);
    Quantize args{};
    args.x = w;
    args.scale = scale;
    if (!spec.symmetric())
      args.zero = store.make(weight_zero_name(path), shape, DType::f32, Category::state);
    args.spec = spec;
    kernels.quantize.run(args, stream);
    if (start == ScaleStart::lsq) lsq_start(w, spec, scale);
    ++started;
  }
  return started;
}

std::vector<float> trained_scales(const std::string& path, const QuantSpec& spec,
                                  const Store& store, const KernelTable& kernels, Stream& stream) {
  const View raw = store.get(weight_scale_name(path));
  std::vector<float> scales(size_t(raw.count()));
  kernels.round_scale.run({raw,
                           {reinterpret_cast<std::byte*>(scales.data()), raw.shape, DType::f32},
                           spec.scale_type,
                           NegativeScale::zero},
                          stream);
  return scales;
}

}  // namespace qat
