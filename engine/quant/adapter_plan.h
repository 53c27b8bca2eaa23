// Which linears carry adapters, and how the frozen matrices below them are stored.
#pragma once

#include <cmath>
#include <map>
#include <string>

#include "kernels/packed.h"
#include "kernels/view.h"

namespace qat {

/// y = W x + scale * B A x, and with DoRA each output channel times magnitude / ||W + scale B A||.
enum class AdapterKind : uint8_t { lora, dora };

/// What alpha is divided by.
enum class AdapterScaling : uint8_t { rank, root_of_rank };

struct LinearAdapter {
  int64_t rank = 0;
  double alpha = 0.0;
  AdapterScaling scaling = AdapterScaling::rank;
  AdapterKind kind = AdapterKind::lora;

  float scale() const {
    const double by = scaling == AdapterScaling::rank ? double(rank) : std::sqrt(double(rank));
    return float(alpha / by);
  }
};

struct AdapterPlan {
  std::map<std::string, LinearAdapter> linears;  ///< by the path of the linear
  std::map<std::string, PackedSpec> packed;      ///< matrices in few bits, by path
  DType dtype = DType::f32;                      ///< of A and B in the Store (magnitudes are f32)
  float dropout = 0.0f;                          ///< on the input of A, in training only
  uint64_t seed = 0;                             ///< of dropout

  bool empty() const { return linears.empty() && packed.empty(); }
};

/// Store names; those of the adapters are PEFT's without its prefix.
inline std::string lora_a_name(const std::string& path) {
  return path + ".lora_A.weight";
}
inline std::string lora_b_name(const std::string& path) {
  return path + ".lora_B.weight";
}
inline std::string magnitude_name(const std::string& path) {
  return path + ".lora_magnitude_vector";
}
inline std::string packed_codes_name(const std::string& path) {
  return path + ".weight.codes";
}
inline std::string absmax_name(const std::string& path) {
  return path + ".weight.absmax";
}
inline std::string nested_absmax_name(const std::string& path) {
  return path + ".weight.nested_absmax";
}
inline std::string nested_offset_name(const std::string& path) {
  return path + ".weight.nested_offset";
}

/// Input i64 [2] that dropout reads: the step, and the row of the batch the micro-batch begins at.
constexpr const char* kDropoutPosition = "dropout_position";

}  // namespace qat
