#include "models/adapter.h"

#include <cmath>

#include "engine/core/hash.h"
#include "engine/train/checkpoint_format.h"
#include "kernels/random.h"
#include "models/decoder.h"

namespace qat {

namespace {

std::string linear_of(const std::string& tensor) {
  constexpr std::string_view kSuffix = ".weight";
  return tensor.ends_with(kSuffix) ? tensor.substr(0, tensor.size() - kSuffix.size()) : tensor;
}

View view_of(float* values, const Shape& shape) {
  return {reinterpret_cast<std::byte*>(values), shape, DType::f32};
}
View view_of(std::vector<float>& values, const Shape& shape) {
  values.resize(size_t(shape.count()));
  return view_of(values.data(), shape);
}

PackedParts make_packed(const std::string& path, const Shape& shape, const PackedSpec& spec,
                        Store& store) {
  const PackedShapes s = packed_shapes(shape, spec);
  const auto make = [&](const std::string& name, const Shape& part, DType dtype) {
    return part.count() == 0 ? View{} : store.make(name, part, dtype, Category::base);
  };
  return {make(packed_codes_name(path), s.codes, s.codes_type),
          make(absmax_name(path), s.absmax, s.absmax_type),
          make(nested_absmax_name(path), s.nested_absmax, DType::f32),
          make(nested_offset_name(path), s.nested_offset, DType::f32),
          shape,
          spec};
}

PackedView find_packed(const std::string& path, const Shape& shape, const PackedSpec& spec,
                       const Store& store) {
  return {store.get(packed_codes_name(path)),
          store.get(absmax_name(path)),
          store.find(nested_absmax_name(path)),
          store.find(nested_offset_name(path)),
          shape,
          spec};
}

// The frozen matrix in f32.
void base_weight(const AdapterPlan& plan, const std::string& path, const View& out,
                 const Store& store, const KernelTable& kernels, Stream& stream) {
  const auto found = plan.packed.find(path);
  if (found == plan.packed.end())
    kernels.cast.run({store.get(path + ".weight"), out}, stream);
  else
    kernels.unpack.run({find_packed(path, out.shape, found->second, store), out}, stream);
}

}  // namespace

std::vector<SourceTensor> adapter_tensors(const AdapterPlan& plan, const ModelConfig& config) {
  std::vector<SourceTensor> tensors;
  for (const std::string& path : decoder_linears(config)) {
    const auto found = plan.linears.find(path);
    if (found == plan.linears.end()) continue;
    const Shape w = linear_shape(config, path);
    tensors.push_back({lora_a_name(path), {found->second.rank, w[1]}});
    tensors.push_back({lora_b_name(path), {w[0], found->second.rank}});
    if (found->second.kind == AdapterKind::dora) tensors.push_back({magnitude_name(path), {w[0]}});
  }
  return tensors;
}

size_t base_bytes(const AdapterPlan& plan, const ModelConfig& config, DType dtype) {
  size_t bytes = 0;
  for (const SourceTensor& t : expected_tensors(config)) {
    const auto packed = plan.packed.find(linear_of(t.name));
    bytes += packed != plan.packed.end()
                 ? packed_bytes(t.shape, packed->second)
                 : size_t(t.shape.count()) * size_of(t.shape.rank() < 2 ? DType::f32 : dtype);
  }
  return bytes;
}

void load_base(const ModelSource& source, const AdapterPlan& plan, DType dtype, Store& store,
               const KernelTable& kernels, Stream& stream) {
  std::vector<float> values;
  for (const SourceTensor& tensor : source.tensors()) {
    const std::string path = linear_of(tensor.name);
    const View read = view_of(values, tensor.shape);
    source.read(tensor.name, read.as<float>());
    const auto packed = plan.packed.find(path);
    if (tensor.shape.rank() == 2 && packed != plan.packed.end()) {
      kernels.pack.run({read, make_packed(path, tensor.shape, packed->second, store)}, stream);
      continue;
    }
    const DType stored = tensor.shape.rank() < 2 ? DType::f32 : dtype;
    kernels.cast.run({read, store.make(tensor.name, tensor.shape, stored, Category::base)}, stream);
  }
}

void initialize_adapters(const AdapterPlan& plan, const ModelConfig& config, uint64_t seed,
                         Store& store, const KernelTable& kernels, Stream& stream) {
  std::vector<float> values, matrix;
  for (const auto& [path, adapter] : plan.linears) {
    const Shape w = linear_shape(config, path);
    const std::string a_name = lora_a_name(path);
    const View a = view_of(values, {adapter.rank, w[1]});
    const float bound = float(1.0 / std::sqrt(double(w[1])));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t word = philox(seed ^ fnv1a(a_name), 0, i / 4)[i % 4];
      values[i] = bound * (2.0f * uniform01(word) - 1.0f);
    }
    kernels.cast.run({a, store.make(a_name, a.shape, plan.dtype, Category::masters)}, stream);
    store.make(lora_b_name(path), {w[0], adapter.rank}, plan.dtype, Category::masters);
    if (adapter.kind != AdapterKind::dora) continue;
    const View base = view_of(matrix, w);
    base_weight(plan, path, base, store, kernels, stream);
    const View norm = store.make(magnitude_name(path), {w[0]}, DType::f32, Category::masters);
    kernels.adapter_merge.run({base, {}, {}, base, norm, {}}, stream);
  }
}

std::string base_identity(const Store& store) {
  checkpoint_format::Checksum sum;
  for (const Store::Entry& entry : store.entries()) {
    if (entry.category != Category::base) continue;
    sum.add(entry.name.data(), entry.name.size() + 1);
    sum.add(entry.view.data, entry.view.bytes());
  }
  return sum.text();
}

void merged_weight(const AdapterPlan& plan, const std::string& path, const Shape& shape,
                   const Store& store, const KernelTable& kernels, Stream& stream, float* out) {
  const View y = view_of(out, shape);
  base_weight(plan, path, y, store, kernels, stream);
  const auto found = plan.linears.find(path);
  if (found == plan.linears.end()) return;
  const LinearAdapter& adapter = found->second;
  std::vector<float> a_values, b_values, norms, gains;
  const View a = view_of(a_values, {adapter.rank, shape[1]});
  const View b = view_of(b_values, {shape[0], adapter.rank});
  kernels.cast.run({store.get(lora_a_name(path)), a}, stream);
  kernels.cast.run({store.get(lora_b_name(path)), b}, stream);
  if (adapter.scale() != 1.0f) kernels.scale.run({b, b, adapter.scale()}, stream);
  const bool dora = adapter.kind == AdapterKind::dora;
  const View norm = dora ? view_of(norms, {shape[0]}) : View{};
  kernels.adapter_merge.run({y, a, b, y, norm, {}}, stream);
  if (!dora) return;
  const View gain = view_of(gains, {shape[0]});
  kernels.divide.run({store.get(magnitude_name(path)), norm, gain}, stream);
  kernels.scale_axis.run({y, gain, {}, y, ScaleAxis::By::row}, stream);
}

}  // namespace qat
