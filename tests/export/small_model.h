// A model of two small layers with random weights and codes, for the exporters' tests.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "engine/core/random.h"
#include "kernels/float_types.h"
#include "models/export/export_model.h"
#include "models/families.h"

namespace qat::test {

inline ModelConfig small_config() {
  ModelConfig c;
  c.hidden = 64, c.ffn = 96, c.layers = 2, c.heads = 4, c.kv_heads = 2, c.head_dim = 16;
  c.vocab = 40, c.max_positions = 128;
  return c;
}

inline uint64_t key_of(const std::string& name) {
  return std::hash<std::string>()(name);
}

inline std::vector<float> random_values(const std::string& name, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto words = philox(key_of(name), 0, i);
    values[i] = normal01(words[0], words[1]) * 0.05f;
  }
  return values;
}

/// Codes over the whole range (every extreme occurs), scales exact in bf16 and f16.
inline QuantizedMatrix random_matrix(const std::string& name, const Shape& shape,
                                     const QuantSpec& spec) {
  QuantizedMatrix m{.spec = spec, .shape = shape, .codes = {}, .scales = {}, .zeros = {}};
  const auto draw = [&](uint64_t stream, size_t i, int low, int high) {
    const auto words = philox(key_of(name), stream, i);
    return low + int(words[0] % uint32_t(high - low + 1));
  };
  m.codes.resize(size_t(shape.count()));
  for (size_t i = 0; i < m.codes.size(); ++i)
    m.codes[i] = spec.form == Form::e4m3 ? int8_t(draw(6, i, 0, 0x7E) | draw(7, i, 0, 1) << 7)
                                         : int8_t(draw(1, i, spec.qmin(), spec.qmax()));
  m.scales.resize(spec.per == Per::tensor ? 1 : size_t(shape[0] * spec.groups(shape[1])));
  for (size_t i = 0; i < m.scales.size(); ++i)
    m.scales[i] = to_float(to_bfloat16(0.001f + 0.0001f * float(draw(2, i, 0, 100))));
  if (spec.in_super_blocks()) {  // multiples of one number of f16 a super-block
    const size_t together = size_t(kSuperBlock / spec.group);
    m.zeros.resize(spec.symmetric() ? 0 : m.scales.size());
    for (size_t i = 0; i < m.scales.size(); ++i) {
      const size_t block = i / together;
      const auto unit = [&](uint64_t stream) {
        return 0x1p-16f * float(draw(stream, block, 1024, 2047));
      };
      const bool q4 = spec.form == Form::q4_k;
      const int times = draw(2, i, q4 ? 1 : -128, q4 ? 63 : 127);
      m.scales[i] = unit(4) * float(times == 0 ? 1 : times);
      if (q4) m.zeros[i] = 0.0f - unit(5) * float(draw(3, i, 0, 63));
    }
    return m;
  }
  if (!spec.symmetric()) {
    m.zeros.resize(m.scales.size());
    for (size_t i = 0; i < m.zeros.size(); ++i)
      m.zeros[i] = float(draw(3, i, spec.qmin(), spec.qmax()));
  }
  return m;
}

/// Every linear of the layers quantized as `quant`; the head and the rest not.
inline ExportModel small_model(const LinearQuant& quant,
                               const ModelConfig& config = small_config()) {
  ExportModel model;
  model.config_json = config_to_huggingface(config);
  model.tensors = export_tensors(config);
  for (ExportTensor& tensor : model.tensors)
    if (tensor.name.ends_with("_proj.weight")) tensor.quant = quant;
  model.codes = [](const ExportTensor& tensor) {
    return random_matrix(tensor.name, tensor.shape, *tensor.quant.weight);
  };
  model.floats = [codes = model.codes](const ExportTensor& tensor, float* out) {
    if (tensor.quantized()) return dequantize(codes(tensor), out);
    const auto values = random_values(tensor.name, tensor.shape.count());
    std::copy(values.begin(), values.end(), out);
  };
  return model;
}

}  // namespace qat::test
