#include "tests/cuda/cases.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/float_types.h"

namespace qat::test {
namespace {

constexpr size_t kGuard = 64;
constexpr std::byte kGuardByte{0x5A};

bool is_float(DType type) {
  return type == DType::f32 || type == DType::bf16 || type == DType::f16;
}

}  // namespace

View Memory::make(Shape shape, DType type) {
  View view{nullptr, shape, type};
  view.data = allocate_(view.bytes() + kGuard);
  std::memset(view.data, 0xFF, view.bytes());
  std::memset(view.data + view.bytes(), int(kGuardByte), kGuard);
  views_.push_back(view);
  return view;
}

View Memory::zeros(Shape shape, DType type) {
  const View view = make(shape, type);
  std::memset(view.data, 0, view.bytes());
  return view;
}

View Memory::normal(Shape shape, DType type, unsigned seed, double deviation) {
  const View view = make(shape, type);
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  for (int64_t i = 0; i < view.count(); ++i) set(view, i, normal(generator));
  return view;
}

View Memory::integers(Shape shape, DType type, unsigned seed, int low, int high) {
  const View view = make(shape, type);
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> uniform(low, high);
  for (int64_t i = 0; i < view.count(); ++i) set(view, i, uniform(generator));
  return view;
}

bool Memory::guards_intact() const {
  for (const View& view : views_)
    for (size_t i = 0; i < kGuard; ++i)
      if (view.data[view.bytes() + i] != kGuardByte) return false;
  return true;
}

void set(const View& view, int64_t i, double value) {
  switch (view.dtype) {
    case DType::f32:
      view.as<float>()[i] = float(value);
      break;
    case DType::bf16:
      view.as<BFloat16>()[i] = to_bfloat16(float(value));
      break;
    case DType::f16:
      view.as<Float16>()[i] = to_float16(float(value));
      break;
    case DType::i8:
      view.as<int8_t>()[i] = int8_t(value);
      break;
    case DType::u8:
      view.as<uint8_t>()[i] = uint8_t(value);
      break;
    case DType::i32:
      view.as<int32_t>()[i] = int32_t(value);
      break;
    case DType::i64:
      view.as<int64_t>()[i] = int64_t(value);
      break;
  }
}

double get(const ConstView& view, int64_t i) {
  switch (view.dtype) {
    case DType::f32:
      return double(view.as<float>()[i]);
    case DType::bf16:
      return double(to_float(view.as<BFloat16>()[i]));
    case DType::f16:
      return double(to_float(view.as<Float16>()[i]));
    case DType::i8:
      return view.as<int8_t>()[i];
    case DType::u8:
      return view.as<uint8_t>()[i];
    case DType::i32:
      return view.as<int32_t>()[i];
    case DType::i64:
      return double(view.as<int64_t>()[i]);
  }
  return 0;
}

void expect_same(const Result& a, const Result& b) {
  ASSERT_EQ(a.view.count(), b.view.count());
  if (std::memcmp(a.view.data, b.view.data, a.view.bytes()) == 0) return;
  const size_t size = size_of(a.view.dtype);
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < a.view.count(); ++i) {
    if (std::memcmp(a.view.data + size_t(i) * size, b.view.data + size_t(i) * size, size) == 0)
      continue;
    if (is_float(a.view.dtype) && std::isnan(get(a.view, i)) && std::isnan(get(b.view, i)))
      continue;
    if (different++ == 0) first = i;
  }
  if (different > 0)
    ADD_FAILURE() << a.name << ": " << different << " of " << a.view.count()
                  << " elements differ, first [" << first << "]: " << get(a.view, first)
                  << " against " << get(b.view, first);
}

void expect_close(const Result& a, const Result& b) {
  ASSERT_EQ(a.view.count(), b.view.count());
  double difference = 0, size = 0;
  for (int64_t i = 0; i < a.view.count(); ++i) {
    const double x = get(a.view, i), y = get(b.view, i);
    ASSERT_EQ(std::isfinite(x), std::isfinite(y)) << a.name << " [" << i << "]: " << x << ", " << y;
    if (!std::isfinite(x)) continue;
    difference += (x - y) * (x - y);
    size += y * y;
  }
  EXPECT_LE(std::sqrt(difference), a.relative * std::sqrt(size)) << a.name;
}

void expect_agreement(const std::vector<Result>& first, const std::vector<Result>& second,
                      const std::vector<Result>& expected) {
  ASSERT_EQ(expected.size(), first.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    expect_same(first[i], second[i]);
    if (expected[i].relative == 0)
      expect_same(first[i], expected[i]);
    else
      expect_close(first[i], expected[i]);
  }
}

}  // namespace qat::test
