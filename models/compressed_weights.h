// The integer weights of a compressed-tensors directory (int-quantized and pack-quantized), read.
// https://github.com/vllm-project/compressed-tensors
#pragma once

#include "models/stored_codes.h"

namespace qat {

class CompressedWeights : public StoredCodes {
 public:
  /// Refuses by name what is not read or cannot be computed: float types, regular expressions as
  /// targets, activations that are neither dynamic per token nor static per tensor.
  CompressedWeights(const Json& quantization_config, const std::string& file,
                    std::shared_ptr<const Safetensors> weights);

  bool is_quantized(const std::string& weight) const override { return modules_.contains(weight); }
  QuantizedMatrix read(const std::string& weight) const override;
  StaticGrid static_activation(const std::string& path) const override;

 private:
  struct Module {
    QuantSpec spec;
    Shape shape;
    bool packed = false;
  };
  void add_module(const std::string& module, const QuantSpec& spec);
  void check_static_activation(const std::string& module, const QuantSpec& spec) const;

  StoredParts parts_;
  std::map<std::string, Module> modules_;  // by weight name
};

}  // namespace qat
