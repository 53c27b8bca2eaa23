// Where weights come from: a Hugging Face directory or a GGUF file, seen alike. Names are Hugging
// Face's ("model.layers.0.self_attn.q_proj.weight"); rows of q and k are in the rotate-half order
// (a llama GGUF is un-permuted on the way).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/quant/quant_plan.h"
#include "kernels/view.h"
#include "models/config.h"
#include "models/quantized_matrix.h"

namespace qat {

/// The grid of a static activation: code = rne(x / scale) + zero.
struct StaticGrid {
  float scale = 0.0f, zero = 0.0f;
};

struct SourceTensor {
  std::string name;
  Shape shape;
};

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  /// path: a directory with config.json and safetensors, a .gguf file. Checks that every tensor the
  /// configuration asks for is there with the right shape, and that none is left over.
  static std::unique_ptr<ModelSource> open(const std::string& path);

  virtual const std::string& path() const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  /// Reads a whole tensor as f32 (exact widening or dequantization). out has its element count.
  /// Refuses non-finite values by tensor name.
  virtual void read(const std::string& name, float* out) const = 0;
  /// The Hugging Face config.json text of this model: the source's own with unknown keys kept, or
  /// written from GGUF metadata.
  virtual std::string config_json() const = 0;
  /// How the stored matrices were quantized and what their runtime does to the activations that
  /// meet them, by path of the linear; empty for real numbers. Evaluating with this plan computes
  /// what is served.
  virtual QuantPlan quantization() const { return {}; }
  /// Codes and scales as stored; only for the matrices quantization() gives a weight grid.
  /// `name` is the tensor's ("...q_proj.weight").
  virtual QuantizedMatrix read_codes(const std::string& name) const;
  /// Only for the linears quantization() gives a static activation.
  virtual StaticGrid static_activation(const std::string& path) const;
};

/// Every tensor a configuration asks for, in the order of the forward pass.
std::vector<SourceTensor> expected_tensors(const ModelConfig& config);

}  // namespace qat
