// Frozen low-bit matrices: packing, values, and products with them. Unpacking reads the codes once
// and writes the values; a product takes the values from scratch. Packing runs once, when a model
// is read: it reads x twice and keeps the absmax values where the codes will be until it has their
// mean, which is summed in order as on the CPU.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"
#include "kernels/packed.h"
#include "kernels/quant_math.h"

namespace qat::cuda {
namespace {

constexpr float kSmallestAbsmax = 1e-38f;  // a block of zeros divides by this

/// How absmax values are stored.
struct Absmax {
  const float* plain;  ///< null with double quantization
  const uint8_t* nested;
  const float *nested_absmax, *offset, *map;
  QAT_DEVICE float of(int64_t block) const {
    return plain ? plain[block]
                 : map[nested[block]] * nested_absmax[block / kAbsmaxBlock] + offset[0];
  }
};

/// The values of codes, in device memory.
__device__ const CodeTable kDeviceNf4 = kNf4;
__device__ const CodeTable kDeviceFp4 = kFp4;

/// A thread takes eight bytes: sixteen values of one block. Shared memory holds the table, because
/// lanes that look up different entries of it would wait for each other elsewhere.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    unpack_codes(const uint8_t* codes, Absmax absmax, bool nf4, T* y, int64_t count) {
  __shared__ float table[16];
  if (threadIdx.x < 16) table[threadIdx.x] = (nf4 ? kDeviceNf4 : kDeviceFp4)[threadIdx.x];
  __syncthreads();
  constexpr int kBytes = 8;
  const int64_t first = (int64_t(blockIdx.x) * kBlockThreads + threadIdx.x) * kBytes * 2;
  if (first >= count) return;
  const float by = absmax.of(first / kPackedBlock);
  if (first + 2 * kBytes <= count) {
    const auto words = load_as<Words<2>>(codes + first / 2);
    float low[kWide], high[kWide];
    for (int k = 0; k < 4; ++k) {
      const uint32_t a = words.at[0] >> (8 * k) & 255u, b = words.at[1] >> (8 * k) & 255u;
      low[2 * k] = table[a >> 4] * by;
      low[2 * k + 1] = table[a & 15u] * by;
      high[2 * k] = table[b >> 4] * by;
      high[2 * k + 1] = table[b & 15u] * by;
    }
    store(y + first, low);
    store(y + first + kWide, high);
    return;
  }
  for (int64_t i = first; i < count; ++i) {
    const uint8_t byte = codes[i / 2];
    y[i] = narrow<T>(table[i % 2 == 0 ? byte >> 4 : byte & 15] * by);
  }
}

template <class T>
struct UnpackInt8Run {
  const int8_t* codes;
  const float* absmax;
  T* y;
  int64_t cols;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth];
    load(codes + i, v);
    for (int k = 0; k < kWidth; ++k) v[k] = v[k] * absmax[(i + k) / cols] * (1.0f / 127.0f);
    store(y + i, v);
  }
};

QAT_DEVICE float absmax_of(const float* x, int64_t count) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; ++i) largest = larger(magnitude(x[i]), largest);
  return largest;
}

__global__ void __launch_bounds__(kBlockThreads)
    pack_int8_rows(const float* x, int8_t* codes, float* absmax, int64_t cols) {
  const float* row = x + int64_t(blockIdx.x) * cols;
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; i < cols; i += kBlockThreads)
    largest = larger(magnitude(row[i]), largest);
  largest = Team{kBlockThreads}.reduce(largest, Largest{});
  if (threadIdx.x == 0) absmax[blockIdx.x] = largest;
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  for (int64_t i = threadIdx.x; i < cols; i += kBlockThreads)
    codes[int64_t(blockIdx.x) * cols + i] = int8_t(round_even(row[i] * inverse));
}

struct BlockMaxRun {
  const float* x;
  float* absmax;
  int64_t count;
  template <int kWidth>
  QAT_DEVICE void run(int64_t block) const {
    const int64_t first = block * kPackedBlock, left = count - first;
    absmax[block] = absmax_of(x + first, left < kPackedBlock ? left : kPackedBlock);
  }
};

__global__ void __launch_bounds__(kWarp)
    mean_absmax(const float* absmax, int64_t count, float* offset) {
  double sum = 0.0;
  for (int64_t first = 0; first < count; first += kWarp) {
    const int64_t mine = first + threadIdx.x;
    const float value = mine < count ? absmax[mine] : 0.0f;
    for (int lane = 0; lane < kWarp; ++lane) sum += double(__shfl_sync(kAllLanes, value, lane));
  }
  if (threadIdx.x == 0) *offset = float(sum / double(count));
}

/// Index of the nearest entry of an ascending map; at a midpoint the lower one.
QAT_DEVICE uint8_t nearest_entry(const float* map, float x) {
  int low = 0;
  for (int step = 128; step > 0; step /= 2) {
    const int candidate = low + step;
    if (x > (map[candidate - 1] + map[candidate]) / 2) low = candidate;
  }
  return uint8_t(low);
}

__global__ void __launch_bounds__(kBlockThreads)
    nest_absmax(const float* absmax, int64_t count, const float* offset, const float* map,
                uint8_t* nested, float* nested_absmax) {
  const int64_t mine = int64_t(blockIdx.x) * kAbsmaxBlock + threadIdx.x;
  const float moved = mine < count ? absmax[mine] - *offset : 0.0f;
  const float largest = Team{kBlockThreads}.reduce(magnitude(moved), Largest{});
  if (threadIdx.x == 0) nested_absmax[blockIdx.x] = largest;
  const float inverse = 1.0f / larger(largest, kSmallestAbsmax);
  if (mine < count) nested[mine] = nearest_entry(map, moved * inverse);
}
static_assert(kAbsmaxBlock == kBlockThreads);

/// The rules of nearest_nf4 and nearest_fp4 in kernels/packed.h.
QAT_DEVICE uint8_t code_of_value(float x, bool nf4) {
  if (nf4) {
    int code = 0;
    for (int i = 0; i < 15; ++i) code += x > (kDeviceNf4[i] + kDeviceNf4[i + 1]) / 2;
    return uint8_t(code);
  }
  constexpr uint8_t kAscending[8] = {0, 1, 6, 7, 4, 5, 2, 3};
  const float size = x < 0 ? -x : x;
  int place = 0;
  for (int i = 0; i < 7; ++i)
    place += size > (kDeviceFp4[kAscending[i]] + kDeviceFp4[kAscending[i + 1]]) / 2;
  return uint8_t(kAscending[place] | (x < 0 ? 8 : 0));
}

struct PackRun {
  const float* x;
  uint8_t* codes;
  int64_t count;
  bool nf4;
  template <int kWidth>
  QAT_DEVICE void run(int64_t block) const {
    const int64_t first = block * kPackedBlock, left = count - first;
    const int64_t last = first + (left < kPackedBlock ? left : kPackedBlock);
    const float inverse = 1.0f / larger(absmax_of(x + first, last - first), kSmallestAbsmax);
    for (int64_t i = first; i < last; i += 2) {
      uint8_t pair[2] = {0, 0};
      for (int64_t k = 0; k < 2 && i + k < last; ++k)
        pair[k] = code_of_value(smaller(larger(x[i + k] * inverse, -1.0f), 1.0f), nf4);
      codes[i / 2] = uint8_t(pair[0] << 4 | pair[1]);
    }
  }
};

const float* signed_map(const Stream& stream) {
  return reinterpret_cast<const float*>(&context_of(stream).maps->m);
}

}  // namespace

void pack(const Pack& args, Stream& stream) {
  const PackedParts& w = args.w;
  const float* x = args.x.as<float>();
  if (w.spec.type == PackedType::int8) {
    launch(pack_int8_rows, Blocks{args.x.rows()}, kBlockThreads, 0, stream, x, w.codes.as<int8_t>(),
           w.absmax.as<float>(), args.x.cols());
    return;
  }
  const int64_t count = args.x.count(), blocks = divided_up(count, kPackedBlock);
  auto* codes = w.codes.as<uint8_t>();
  // Codes of a block take 32 bytes: more than the float they hold for now.
  const bool nested = w.spec.double_quant;
  float* absmax = nested ? w.codes.as<float>() : w.absmax.as<float>();
  elementwise(stream, blocks, false, BlockMaxRun{x, absmax, count});
  if (nested) {
    launch(mean_absmax, Blocks{1}, kWarp, 0, stream, absmax, blocks, w.nested_offset.as<float>());
    launch(nest_absmax, Blocks{divided_up(blocks, kAbsmaxBlock)}, kBlockThreads, 0, stream, absmax,
           blocks, w.nested_offset.as<float>(), signed_map(stream), w.absmax.as<uint8_t>(),
           w.nested_absmax.as<float>());
  }
  elementwise(stream, blocks, false, PackRun{x, codes, count, w.spec.type == PackedType::nf4});
}

void unpack(const Unpack& args, Stream& stream) {
  const PackedView& w = args.w;
  const int64_t count = w.shape.count(), cols = w.shape.cols();
  with_float(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (w.spec.type == PackedType::int8) {
      const bool wide = fits_wide(count, w.codes.data, args.y.data);
      elementwise(
          stream, count, wide,
          UnpackInt8Run<T>{w.codes.as<int8_t>(), w.absmax.as<float>(), args.y.as<T>(), cols});
      return;
    }
    const bool nested = w.spec.double_quant;
    const Absmax absmax{nested ? nullptr : w.absmax.as<float>(),
                        nested ? w.absmax.as<uint8_t>() : nullptr, w.nested_absmax.as<float>(),
                        w.nested_offset.as<float>(), signed_map(stream)};
    launch(unpack_codes<T>, Blocks{divided_up(count, 16 * kBlockThreads)}, kBlockThreads, 0, stream,
           w.codes.as<uint8_t>(), absmax, w.spec.type == PackedType::nf4, args.y.as<T>(), count);
  });
}

size_t matmul_packed_scratch_bytes(const MatmulPacked& args) {
  return size_t(args.w.shape.count()) * size_of(args.a.dtype);
}

void matmul_packed(const MatmulPacked& args, Stream& stream) {
  const View values{args.scratch.data, args.w.shape, args.a.dtype};
  unpack({args.w, values}, stream);
  matmul({args.a, values, args.c, args.form, false}, stream);
}

}  // namespace qat::cuda
