// Filling the Store with a model: from a source, from scratch, and the rotary table.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <vector>

#include "engine/core/error.h"
#include "kernels/float_types.h"
#include "kernels/random.h"
#include "models/decoder.h"

namespace qat {

namespace {

// Norm weights and biases stay f32; matrices take the wanted dtype.
DType stored_dtype(const Shape& shape, DType dtype) {
  return shape.rank() < 2 ? DType::f32 : dtype;
}

void store_floats(const std::vector<float>& values, View out) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (out.dtype == DType::f32)
      out.as<float>()[i] = values[i];
    else
      out.as<BFloat16>()[i] = to_bfloat16(values[i]);
  }
}

void load_parameter(const ModelSource& source, const SourceTensor& tensor, Store& store,
                    const std::string& prefix, DType dtype, Category category) {
  const DType stored = stored_dtype(tensor.shape, dtype);
  const View view = store.make(prefix + tensor.name, tensor.shape, stored, category);
  if (stored == DType::f32) return source.read(tensor.name, view.as<float>());
  std::vector<float> values(size_t(tensor.shape.count()));
  source.read(tensor.name, values.data());
  store_floats(values, view);
}

void store_codes(const QuantizedMatrix& matrix, const std::string& path, Store& store,
                 Category category) {
  const View codes = store.make(codes_name(path), matrix.shape, DType::i8, category);
  std::copy(matrix.codes.begin(), matrix.codes.end(), codes.as<int8_t>());
  const Shape grid =
      matrix.spec.per == Per::tensor ? Shape{1} : Shape{matrix.shape[0], matrix.groups()};
  const View scales = store.make(codes_scale_name(path), grid, DType::f32, category);
  std::copy(matrix.scales.begin(), matrix.scales.end(), scales.as<float>());
  if (!matrix.group_of.empty()) {
    const View group = store.make(codes_group_name(path), {matrix.shape[1]}, DType::i32, category);
    std::copy(matrix.group_of.begin(), matrix.group_of.end(), group.as<int32_t>());
  }
  if (matrix.spec.symmetric()) return;
  const View zeros = store.make(codes_zero_name(path), grid, DType::f32, category);
  std::copy(matrix.zeros.begin(), matrix.zeros.end(), zeros.as<float>());
}

void store_static_grid(const StaticGrid& grid, const std::string& path, const QuantSpec& spec,
                       Store& store) {
  const auto put = [&](const std::string& name, float value) {
    store.make(name, {1}, DType::f32, Category::state).as<float>()[0] = value;
  };
  put(activation_scale_name(path), grid.scale);
  if (!spec.symmetric()) put(activation_zero_name(path), grid.zero);
}

}  // namespace

void load_parameters(const ModelSource& source, Store& store, const std::string& prefix,
                     DType dtype, Category category) {
  for (const SourceTensor& tensor : source.tensors())
    load_parameter(source, tensor, store, prefix, dtype, category);
}

QuantPlan load_deployed(const ModelSource& source, Store& store, DType dtype, Category category) {
  QuantPlan plan = source.quantization();
  std::set<std::string> as_codes;
  for (auto& [path, linear] : plan.linears) {
    if (linear.weight) {
      const std::string weight = path + ".weight";
      const QuantizedMatrix matrix = source.read_codes(weight);
      linear.weight = matrix.spec;
      linear.stored_weight = true;
      linear.listed_groups = !matrix.group_of.empty();
      store_codes(matrix, path, store, category);
      // Rows of the table are looked up, and other code wants its numbers.
      if (path != kEmbeddingPath) as_codes.insert(weight);
    }
    if (linear.static_activation)
      store_static_grid(source.static_activation(path), path, *linear.activation, store);
  }
  for (const SourceTensor& tensor : source.tensors())
    if (!as_codes.contains(tensor.name)) load_parameter(source, tensor, store, "", dtype, category);
  return plan;
}

void initialize_parameters(const ModelConfig& config, Store& store, float initializer_range,
                           uint64_t seed, DType dtype) {
  uint64_t index = 0;
  std::vector<float> values;
  for (const SourceTensor& tensor : expected_tensors(config)) {
    const bool matrix = tensor.shape.rank() == 2;
    values.assign(size_t(tensor.shape.count()), tensor.name.ends_with(".weight") ? 1.0f : 0.0f);
    for (size_t i = 0; matrix && i < values.size(); ++i) {
      const auto words = philox(seed, index, uint64_t(i));
      values[i] = initializer_range * normal01(words[0], words[1]);
    }
    const DType stored = stored_dtype(tensor.shape, dtype);
    store_floats(values, store.make(tensor.name, tensor.shape, stored, Category::masters));
    ++index;
  }
}

void fill_rope_table(const ModelConfig& config, Store& store, const std::string& prefix) {
  const int64_t half = config.head_dim / 2;
  std::vector<float> frequency(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = float(2 * i) / float(config.head_dim);
    float f = 1.0f / std::pow(float(config.rope_theta), exponent);
    if (!config.rope_freq_divisors.empty()) {
      f /= config.rope_freq_divisors[size_t(i)];
    } else if (config.rope_scaling == RopeScaling::linear) {
      f /= float(config.rope_factor);
    } else if (config.rope_scaling == RopeScaling::llama3) {
      // Llama 3.1: long wavelengths are stretched, short ones kept, those between blended.
      const double original = double(config.rope_original_positions);
      const double wavelength = 2.0 * std::numbers::pi / double(f);
      const double low = original / config.rope_low_freq_factor;
      const double high = original / config.rope_high_freq_factor;
      if (wavelength > low) {
        f = float(double(f) / config.rope_factor);
      } else if (wavelength >= high) {
        const double smooth = (original / wavelength - config.rope_low_freq_factor) /
                              (config.rope_high_freq_factor - config.rope_low_freq_factor);
        f = float((1.0 - smooth) * double(f) / config.rope_factor + smooth * double(f));
      }
    }
    frequency[size_t(i)] = f;
  }
  const View table = store.make(prefix + kRopeTable, {config.max_positions, config.head_dim},
                                DType::f32, Category::state);
  for (int64_t p = 0; p < config.max_positions; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const float angle = float(p) * frequency[size_t(i)];
      table.as<float>()[p * config.head_dim + i] = std::cos(angle);
      table.as<float>()[p * config.head_dim + half + i] = std::sin(angle);
    }
}

}  // namespace qat
