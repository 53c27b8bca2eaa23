// Small owning tensors for kernel tests: filled by a fixed generator, read back as doubles.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/float_types.h"
#include "kernels/kernels.h"

namespace qat::test {

/// A tensor that owns its bytes, with 64 guard bytes behind them.
class Tensor {
 public:
  Tensor(Shape shape, DType type) : shape_(shape), type_(type) {
    bytes_.assign(size_t(shape.count()) * size_of(type) + kGuard, std::byte{0x5A});
  }

  View view() { return {bytes_.data(), shape_, type_}; }
  int64_t count() const { return shape_.count(); }
  DType dtype() const { return type_; }

  double operator[](int64_t i) const {
    switch (type_) {
      case DType::f32:
        return read<float>(i);
      case DType::bf16:
        return to_float(read<BFloat16>(i));
      case DType::i32:
        return read<int32_t>(i);
      case DType::i8:
        return read<int8_t>(i);
      default:
        return NAN;
    }
  }

  /// All elements; quicker than one at a time.
  std::vector<double> values() const {
    std::vector<double> all(static_cast<size_t>(count()));
    for (int64_t i = 0; i < count(); ++i) all[size_t(i)] = (*this)[i];
    return all;
  }

  /// Rounds to the tensor's type.
  void set(int64_t i, double value) {
    switch (type_) {
      case DType::f32:
        return write(i, float(value));
      case DType::bf16:
        return write(i, to_bfloat16(float(value)));
      case DType::i32:
        return write(i, int32_t(value));
      case DType::i8:
        return write(i, int8_t(value));
      default:
        return;
    }
  }

  Tensor& fill(double value) {
    for (int64_t i = 0; i < count(); ++i) set(i, value);
    return *this;
  }

  Tensor& fill_normal(unsigned seed, double deviation) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(0.0, deviation);
    for (int64_t i = 0; i < count(); ++i) set(i, normal(generator));
    return *this;
  }

  /// Whole numbers in [low, high].
  Tensor& fill_integers(unsigned seed, int low, int high) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int> uniform(low, high);
    for (int64_t i = 0; i < count(); ++i) set(i, uniform(generator));
    return *this;
  }

  bool same_bits(const Tensor& other) const { return bytes_ == other.bytes_; }

  bool guard_intact() const {
    for (size_t i = bytes_.size() - kGuard; i < bytes_.size(); ++i)
      if (bytes_[i] != std::byte{0x5A}) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;

  template <class T>
  T read(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + size_t(i) * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void write(int64_t i, T value) {
    std::memcpy(bytes_.data() + size_t(i) * sizeof(T), &value, sizeof(T));
  }

  Shape shape_;
  DType type_;
  std::vector<std::byte> bytes_;
};

/// Scratch of exactly the bytes a kernel asks for (guarded by Tensor), filled with NaN patterns.
template <class Args>
Tensor scratch_for(const Kernel<Args>& kernel, const Args& args) {
  const size_t bytes = kernel.scratch_bytes == nullptr ? 0 : kernel.scratch_bytes(args);
  Tensor scratch({int64_t(bytes)}, DType::u8);
  if (bytes > 0) std::memset(scratch.view().data, 0xFF, bytes);
  return scratch;
}

/// ||a - b|| / ||b|| over all elements.
inline double relative_error(const Tensor& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < a.count(); ++i) {
    difference += (a[i] - b[size_t(i)]) * (a[i] - b[size_t(i)]);
    size += b[size_t(i)] * b[size_t(i)];
  }
  return std::sqrt(difference / (size > 0 ? size : 1));
}

}  // namespace qat::test
