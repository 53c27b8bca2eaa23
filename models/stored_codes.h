// The linears of a Hugging Face directory that are stored as integer codes, whatever packed them:
// compressed-tensors (compressed_weights.h), GPTQ and AWQ (packed_weights.h). To whoever reads a
// model they are matrices like any other; to whoever runs or compares it, also codes and scales.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "models/quantized_matrix.h"
#include "models/source.h"

namespace qat {

class StoredCodes {
 public:
  virtual ~StoredCodes() = default;
  /// All tensors as if nothing were quantized: "...q_proj.weight" for its codes and scales.
  const std::vector<SourceTensor>& tensors() const { return tensors_; }
  /// How the decoder's linears are multiplied by what serves these files, by path.
  const QuantPlan& plan() const { return plan_; }
  /// True if a weight is stored as codes.
  virtual bool is_quantized(const std::string& weight) const = 0;
  /// Codes, scales and zero points as stored; checked.
  virtual QuantizedMatrix read(const std::string& weight) const = 0;
  /// The values of those codes.
  virtual void read_values(const std::string& weight, float* out) const {
    dequantize(read(weight), out);
  }
  /// Of a linear whose plan has a static activation.
  virtual StaticGrid static_activation(const std::string& path) const;

 protected:
  std::vector<SourceTensor> tensors_;
  QuantPlan plan_;
};

/// `quantization_config` is that object of the config.json `file`; quant_method says who reads it.
/// Refuses by name what is not read.
std::unique_ptr<StoredCodes> open_stored_codes(const Json& quantization_config,
                                               const std::string& file,
                                               std::shared_ptr<const Safetensors> weights);
/// Opens a directory for its codes alone; refuses one without quantization_config.
std::unique_ptr<StoredCodes> open_stored_codes(const std::string& directory);

/// What the readers share: a tensor by name, its checks, copies of its 32-bit words.
class StoredParts {
 public:
  StoredParts(std::string file, std::shared_ptr<const Safetensors> weights)
      : file_(std::move(file)), weights_(std::move(weights)) {}
  const std::string& file() const { return file_; }
  const Safetensors& weights() const { return *weights_; }
  const SafetensorsTensor* find(const std::string& name) const { return weights_->find(name); }
  /// Refuses a missing tensor, and one of another shape or type.
  const SafetensorsTensor& get(const std::string& name) const;
  const SafetensorsTensor& expect(const std::string& name, const Shape& shape,
                                  std::initializer_list<StoredType> types) const;
  /// Stored data need not be aligned, so words are copied out.
  std::vector<int32_t> words(const SafetensorsTensor& tensor) const;
  std::vector<float> floats(const SafetensorsTensor& tensor) const;

 private:
  std::string file_;
  std::shared_ptr<const Safetensors> weights_;
};

/// The types a scale is stored in.
inline constexpr std::initializer_list<StoredType> kScaleTypes = {StoredType::f32, StoredType::f16,
                                                                  StoredType::bf16};

/// True for the matrices of a decoder layer, by the name of their module.
bool is_decoder_linear(const std::string& module);

}  // namespace qat
