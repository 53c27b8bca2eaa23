// Tensors and a state whose values tell which step they belong to.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/train/checkpoint.h"

namespace qat {

/// Tensors of several dtypes and sizes, their values a function of the step.
class StepTensors {
 public:
  explicit StepTensors(int64_t step, int64_t large = 3000) {
    for (int64_t i = 0; i < large; ++i) weights_.push_back(float(step) + float(i) * 0x1p-20f);
    for (int64_t i = 0; i < 1000; ++i) moments_.push_back(uint8_t(step * 31 + i));
    for (int64_t i = 0; i < 77; ++i) copies_.push_back(uint16_t(0x3f80 + (step + i) % 64));
    for (int64_t i = 0; i < 3; ++i) cursor_.push_back(step * 1000 + i);
  }
  std::vector<CheckpointTensor> list() const {
    return {tensor("weights", weights_, DType::f32), tensor("moments", moments_, DType::u8),
            tensor("copies", copies_, DType::bf16), tensor("cursor", cursor_, DType::i64)};
  }
  std::vector<float>& weights() { return weights_; }

 private:
  template <class T>
  static CheckpointTensor tensor(const std::string& name, const std::vector<T>& values,
                                 DType dtype) {
    return {name, ConstView(reinterpret_cast<const std::byte*>(values.data()),
                            Shape{int64_t(values.size())}, dtype)};
  }
  std::vector<float> weights_;
  std::vector<uint8_t> moments_;
  std::vector<uint16_t> copies_;
  std::vector<int64_t> cursor_;
};

inline nlohmann::json step_state(int64_t step) {
  return {{"step", step}, {"learning_rate", 1e-4 / double(step + 1)}, {"epoch", step / 7}};
}

}  // namespace qat
