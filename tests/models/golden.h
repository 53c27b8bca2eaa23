// Reads the golden files that tests/golden/make_golden.py wrote with PyTorch and transformers.
#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/io/safetensors.h"
#include "models/decoder.h"
#include "models/graphs.h"

namespace qat::golden {

/// A grid whose largest weights saturate, so that gradients are masked.
inline constexpr QuantSpec kClippingInt4{.bits = 4,
                                         .per = Per::group,
                                         .group = 32,
                                         .range = Range::full,
                                         .rule = ScaleRule::half_range,
                                         .scale_type = ScaleType::portable};

inline std::string path(const std::string& name) {
  return "tests/golden/" + name;
}

inline std::vector<float> floats(const Safetensors& file, const std::string& name) {
  const SafetensorsTensor* tensor = file.find(name);
  if (!tensor) throw std::runtime_error("no golden tensor " + name);
  std::vector<float> values(size_t(tensor->shape.count()));
  file.read_floats(*tensor, 0, tensor->shape.count(), values.data());
  return values;
}

inline std::vector<int32_t> ints(const Safetensors& file, const std::string& name) {
  const SafetensorsTensor* tensor = file.find(name);
  if (!tensor) throw std::runtime_error("no golden tensor " + name);
  std::vector<int32_t> values(size_t(tensor->shape.count()));
  std::memcpy(values.data(), file.data(*tensor), values.size() * sizeof(int32_t));
  return values;
}

/// Relative L2 distance.
inline double distance(const float* got, const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double(got[i]) - double(expected[i]), 2);
    norm += std::pow(double(expected[i]), 2);
  }
  return std::sqrt(difference / std::max(norm, 1e-60));
}

}  // namespace qat::golden
