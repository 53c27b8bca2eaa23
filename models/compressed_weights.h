// The integer weights of a compressed-tensors directory (int-quantized and pack-quantized), read.
// https://github.com/vllm-project/compressed-tensors
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

class CompressedWeights {
 public:
  /// `quantization_config` is that object of the config.json `file`. Refuses by name what is not
  /// read: other methods, float types, regular expressions as targets.
  CompressedWeights(const Json& quantization_config, const std::string& file,
                    std::shared_ptr<const Safetensors> weights);

  /// All tensors as if nothing were quantized: "...q_proj.weight" for its codes and scales.
  const std::vector<SourceTensor>& tensors() const { return tensors_; }
  /// True if a weight is stored as codes.
  bool is_quantized(const std::string& weight) const { return modules_.contains(weight); }
  /// Codes, scales and zero points as stored; checked.
  QuantizedMatrix read(const std::string& weight) const;

 private:
  struct Module {
    QuantSpec spec;
    Shape shape;
    bool packed = false;
  };
  void add_module(const std::string& module, const QuantSpec& spec);
  const SafetensorsTensor& tensor(const std::string& name) const;
  std::vector<float> small_floats(const SafetensorsTensor& tensor) const;

  std::string file_;
  std::shared_ptr<const Safetensors> weights_;
  std::map<std::string, Module> modules_;  // by weight name
  std::vector<SourceTensor> tensors_;
};

/// Opens a compressed-tensors directory for its codes alone; refuses directories of other kinds.
std::unique_ptr<CompressedWeights> open_compressed_weights(const std::string& directory);

}  // namespace qat
