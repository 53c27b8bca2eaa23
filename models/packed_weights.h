// The integer weights of GPTQ and AWQ directories, read. Both keep a linear transposed (inputs
// first) as qweight, qzeros and scales; they differ in what a 32-bit word holds. Layouts:
// AutoGPTQ/GPTQModel `qlinear` and AutoAWQ `gemm`.
#pragma once

#include "models/stored_codes.h"

namespace qat {

class PackedWeights : public StoredCodes {
 public:
  /// Refuses by name what is not read: 3 bits, AWQ layouts other than gemm, overrides of single
  /// modules that change their bits.
  PackedWeights(const Json& quantization_config, const std::string& file,
                std::shared_ptr<const Safetensors> weights);

  bool is_quantized(const std::string& weight) const override { return modules_.contains(weight); }
  /// Refuses groups of scattered columns (desc_act); read_values has their values.
  QuantizedMatrix read(const std::string& weight) const override;
  void read_values(const std::string& weight, float* out) const override;

 private:
  enum class Method { gptq, awq };
  struct Module {
    QuantSpec spec;
    Shape shape;                 ///< [N, K]
    std::vector<int32_t> g_idx;  ///< group of each column, only when it is not column / group
  };
  void read_config(const Json& config);
  void add_module(const std::string& module);
  void take_groups(const std::string& module, Module& m) const;
  /// Codes and zero points less 2^(bits-1), transposed back to rows of outputs.
  QuantizedMatrix unpacked(const std::string& module, const Module& m) const;

  StoredParts parts_;
  Method method_ = Method::gptq;
  int bits_ = 4;
  int64_t group_ = -1;
  int zero_offset_ = 0;                    ///< 1 where zero points are stored less one (GPTQ v1)
  std::map<std::string, Module> modules_;  // by weight name
};

}  // namespace qat
