// Shapes, dtypes and views: all a kernel sees of a tensor. A view never owns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace qat {

enum class DType : uint8_t { f32, bf16, f16, i8, u8, i32, i64 };

constexpr size_t size_of(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::i8:
    case DType::u8: return 1;
    case DType::i64: return 8;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
  }
  return "?";
}

/// Up to four dimensions, row major, the last one contiguous.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    for (int64_t d : dims) dims_[rank_++] = d;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  /// Elements; 1 for a scalar (rank 0).
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  /// Size of the last dimension; 1 for a scalar.
  int64_t cols() const { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }
  /// Product of all dimensions but the last.
  int64_t rows() const { return cols() == 0 ? 0 : count() / cols(); }
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<int64_t, 4> dims_{};
  int rank_ = 0;
};

/// Pointer + shape + dtype, contiguous. An empty view (data == nullptr) stands for "not given".
template <class Byte>
struct BasicView {
  Byte* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;

  explicit operator bool() const { return data != nullptr; }
  int64_t count() const { return shape.count(); }
  int64_t rows() const { return shape.rows(); }
  int64_t cols() const { return shape.cols(); }
  size_t bytes() const { return size_t(count()) * size_of(dtype); }
  template <class T>
  auto* as() const {
    if constexpr (std::is_const_v<Byte>)
      return reinterpret_cast<const T*>(data);
    else
      return reinterpret_cast<T*>(data);
  }
};

using View = BasicView<std::byte>;

struct ConstView : BasicView<const std::byte> {
  ConstView() = default;
  ConstView(const std::byte* data, Shape shape, DType dtype) {
    this->data = data;
    this->shape = shape;
    this->dtype = dtype;
  }
  ConstView(const View& v) : ConstView(v.data, v.shape, v.dtype) {}  // NOLINT: meant to be implicit
};

}  // namespace qat
