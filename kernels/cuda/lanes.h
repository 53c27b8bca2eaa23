// Loads and stores of several elements at once, and reductions over the threads that share a row.
#pragma once

#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/view.h"

namespace qat::cuda {

inline constexpr int kWide = 8;  ///< elements a thread takes at once where it can
inline constexpr int kBlockThreads = 256;

/// Bytes that are moved by one instruction.
template <int kCount>
struct alignas(kCount * 4) Words {
  uint32_t at[kCount];
};

template <class T>
QAT_DEVICE T load_as(const void* p) {
  return *static_cast<const T*>(p);
}

/// kWidth elements as floats. kWidth 8 wants 16 bytes of alignment.
template <int kWidth>
QAT_DEVICE void load(const float* p, float (&out)[kWidth]) {
  if constexpr (kWidth == 8) {
    const auto low = load_as<Words<4>>(p), high = load_as<Words<4>>(p + 4);
    for (int i = 0; i < 4; ++i) {
      out[i] = float_of(low.at[i]);
      out[i + 4] = float_of(high.at[i]);
    }
  } else {
    for (int i = 0; i < kWidth; ++i) out[i] = p[i];
  }
}
template <int kWidth>
QAT_DEVICE void load(const BFloat16* p, float (&out)[kWidth]) {
  if constexpr (kWidth == 8) {
    const auto words = load_as<Words<4>>(p);
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = low_half(words.at[i]);
      out[2 * i + 1] = high_half(words.at[i]);
    }
  } else {
    for (int i = 0; i < kWidth; ++i) out[i] = to_float(p[i]);
  }
}
template <int kWidth>
QAT_DEVICE void load(const int8_t* p, float (&out)[kWidth]) {
  if constexpr (kWidth == 8) {
    const auto words = load_as<Words<2>>(p);
    for (int i = 0; i < 8; ++i) out[i] = float(int8_t(words.at[i / 4] >> (i % 4 * 8)));
  } else {
    for (int i = 0; i < kWidth; ++i) out[i] = float(p[i]);
  }
}

template <int kWidth>
QAT_DEVICE void store(float* p, const float (&v)[kWidth]) {
  if constexpr (kWidth == 8) {
    Words<4> low, high;
    for (int i = 0; i < 4; ++i) {
      low.at[i] = bits_of(v[i]);
      high.at[i] = bits_of(v[i + 4]);
    }
    *reinterpret_cast<Words<4>*>(p) = low;
    *reinterpret_cast<Words<4>*>(p + 4) = high;
  } else {
    for (int i = 0; i < kWidth; ++i) p[i] = v[i];
  }
}
template <int kWidth>
QAT_DEVICE void store(BFloat16* p, const float (&v)[kWidth]) {
  if constexpr (kWidth == 8) {
    Words<4> words;
    for (int i = 0; i < 4; ++i) words.at[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
    *reinterpret_cast<Words<4>*>(p) = words;
  } else {
    for (int i = 0; i < kWidth; ++i) p[i] = to_bfloat16(v[i]);
  }
}
/// Bytes: codes, or the bits of 8-bit floats.
template <int kWidth>
QAT_DEVICE void store_bytes(void* p, const uint8_t (&v)[kWidth]) {
  if constexpr (kWidth == 8) {
    Words<2> words;
    for (int w = 0; w < 2; ++w)
      words.at[w] = uint32_t(v[4 * w]) | uint32_t(v[4 * w + 1]) << 8 |
                    uint32_t(v[4 * w + 2]) << 16 | uint32_t(v[4 * w + 3]) << 24;
    *static_cast<Words<2>*>(p) = words;
  } else {
    for (int i = 0; i < kWidth; ++i) static_cast<uint8_t*>(p)[i] = v[i];
  }
}

/// True if rows of `cols` elements at these addresses can be taken kWide elements at a time.
template <class... Pointers>
bool fits_wide(int64_t cols, const Pointers*... pointers) {
  const auto misaligned = (reinterpret_cast<uintptr_t>(pointers) | ... | uintptr_t(0));
  return cols % kWide == 0 && misaligned % 16 == 0;
}

/// Calls body with a value of the C++ type of an f32 or bf16 view.
template <class Body>
void with_float(DType type, Body body) {
  if (type == DType::f32)
    body(float{});
  else
    body(BFloat16{});
}

template <class T>
T* data_of(const View& view) {
  return view.as<T>();
}
template <class T>
const T* data_of(const ConstView& view) {
  return view.as<T>();
}

inline int64_t divided_up(int64_t count, int64_t by) {
  return (count + by - 1) / by;
}

// ---- elementwise: body.template run<kWidth>(i) for runs of kWidth elements ----

template <int kWidth, class Body>
__global__ void __launch_bounds__(kBlockThreads) elementwise_kernel(int64_t count, Body body) {
  const int64_t step = int64_t(gridDim.x) * kBlockThreads * kWidth;
  int64_t i = (int64_t(blockIdx.x) * kBlockThreads + threadIdx.x) * kWidth;
  for (; i < count; i += step) body.template run<kWidth>(i);
}

/// Blocks of an elementwise launch: enough to fill any card, few enough to start quickly.
inline constexpr int64_t kMostBlocks = 8192;

/// wide: fits_wide of all that body touches.
template <class Body>
void elementwise(Stream& stream, int64_t count, bool wide, const Body& body) {
  const int64_t runs = wide ? count / kWide : count;
  const Blocks blocks{std::min(kMostBlocks, divided_up(runs, kBlockThreads))};
  if (wide)
    launch(elementwise_kernel<kWide, Body>, blocks, kBlockThreads, 0, stream, count, body);
  else
    launch(elementwise_kernel<1, Body>, blocks, kBlockThreads, 0, stream, count, body);
}

/// out = or += the sum of `rows` rows of partial sums, in their order.
struct FoldRows {
  const float* partial;
  float* out;
  int64_t rows, cols;
  bool accumulate;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float total[kWidth], part[kWidth];
    for (int k = 0; k < kWidth; ++k) total[k] = 0.0f;
    if (accumulate) load(out + i, total);
    for (int64_t row = 0; row < rows; ++row) {
      load(partial + row * cols + i, part);
      for (int k = 0; k < kWidth; ++k) total[k] += part[k];
    }
    store(out + i, total);
  }
};

// ---- teams: the threads of a block that share a row ----

struct Sum {
  template <class T>
  QAT_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
/// NaN is passed over.
struct Largest {
  QAT_DEVICE float operator()(float a, float b) const { return a > b ? a : b; }
};
struct Smallest {
  QAT_DEVICE float operator()(float a, float b) const { return a < b ? a : b; }
};

/// `size` threads that follow each other: a power of two up to a warp, or the whole block.
struct Team {
  int size;
  QAT_DEVICE int rank() const { return int(threadIdx.x) % size; }
  QAT_DEVICE int index() const { return int(threadIdx.x) / size; }

  /// combine over the team's values, in one order; every thread of the block takes part and all of
  /// a team get the result. combine must not care which of its arguments comes first.
  template <class T, class Combine>
  QAT_DEVICE T reduce(T value, Combine combine) const {
    const int within = size < kWarp ? size : kWarp;
    for (int distance = within / 2; distance > 0; distance /= 2)
      value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
    if (size <= kWarp) return value;
    __shared__ T parts[kBlockThreads / kWarp];
    __syncthreads();  // an earlier result may still be read
    if (lane_id() == 0) parts[warp_id()] = value;
    __syncthreads();
    T result = parts[0];
    for (int warp = 1; warp < size / kWarp; ++warp) result = combine(result, parts[warp]);
    return result;
  }
};

/// A team for rows of `cols` elements: about eight elements a thread and visit, a block for long
/// rows.
inline Team team_for(int64_t cols, bool wide) {
  const int64_t runs = wide ? cols / kWide : cols;
  if (runs > 4 * kWarp) return {kBlockThreads};
  int size = 1;
  while (size < runs && size < kWarp) size *= 2;
  return {size};
}
/// Blocks for `rows` rows.
inline Blocks team_blocks(int64_t rows, Team team) {
  return {divided_up(rows, kBlockThreads / team.size)};
}

}  // namespace qat::cuda
