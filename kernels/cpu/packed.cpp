// Frozen low-bit matrices: packing, values, and products with them.
#include <algorithm>
#include <array>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/dynamic_maps.h"
#include "kernels/float_types.h"
#include "kernels/quant_math.h"

namespace qat::cpu {
namespace {

float absmax_of(const float* x, int64_t count) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; ++i) largest = larger(magnitude(x[i]), largest);
  return largest;
}

/// Index of the nearest entry of an ascending map; at a midpoint the lower one.
uint8_t nearest_entry(const DynamicMap& map, float x) {
  int low = 0;
  for (int step = 128; step > 0; step /= 2) {
    const int candidate = low + step;
    if (x > (map[size_t(candidate - 1)] + map[size_t(candidate)]) / 2) low = candidate;
  }
  return uint8_t(low);
}

constexpr float kSmallestAbsmax = 1e-38f;  // a block of zeros divides by this

/// The mean is summed in double: PyTorch's sum depends on its vector width.
void pack_absmax(const std::vector<float>& absmax, const PackedParts& w) {
  double sum = 0.0;
  for (const float value : absmax) sum += double(value);
  const float offset = float(sum / double(absmax.size()));
  w.nested_offset.as<float>()[0] = offset;
  const DynamicMap& map = dynamic_maps().m;
  const int64_t count = int64_t(absmax.size());
  for (int64_t begin = 0; begin < count; begin += kAbsmaxBlock) {
    const int64_t end = std::min(begin + kAbsmaxBlock, count);
    float largest = 0.0f;
    for (int64_t i = begin; i < end; ++i)
      largest = larger(magnitude(absmax[size_t(i)] - offset), largest);
    w.nested_absmax.as<float>()[begin / kAbsmaxBlock] = largest;
    const float inverse = 1.0f / larger(largest, kSmallestAbsmax);
    for (int64_t i = begin; i < end; ++i)
      w.absmax.as<uint8_t>()[i] = nearest_entry(map, (absmax[size_t(i)] - offset) * inverse);
  }
}

void pack_int8(const Pack& args, Stream& stream) {
  const int64_t cols = args.x.cols();
  over_ranges(stream, args.x.rows(), 1, cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x.as<float>() + row * cols;
      const float largest = absmax_of(x, cols);
      args.w.absmax.as<float>()[row] = largest;
      const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
      for (int64_t i = 0; i < cols; ++i)
        args.w.codes.as<int8_t>()[row * cols + i] = int8_t(round_even(x[i] * inverse));
    }
  });
}

/// The absmax of a block, whichever way it is stored.
float stored_absmax(const PackedView& w, int64_t block) {
  if (!w.spec.double_quant) return w.absmax.as<float>()[block];
  return dynamic_maps().m[w.absmax.as<uint8_t>()[block]] *
             w.nested_absmax.as<float>()[block / kAbsmaxBlock] +
         w.nested_offset.as<float>()[0];
}

template <class T>
void unpack_4bit(const Unpack& args, Stream& stream) {
  const int64_t count = args.w.shape.count(), blocks = (count + kPackedBlock - 1) / kPackedBlock;
  const CodeTable& table = code_table(args.w.spec.type);
  const uint8_t* codes = args.w.codes.as<uint8_t>();
  T* y = args.y.as<T>();
  over_ranges(stream, blocks, 16, kPackedBlock, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const float absmax = stored_absmax(args.w, block);
      std::array<T, 16> values;
      for (size_t code = 0; code < 16; ++code) values[code] = narrow<T>(table[code] * absmax);
      const int64_t first = block * kPackedBlock, last = std::min(first + kPackedBlock, count);
      for (int64_t i = first; i + 1 < last; i += 2) {
        y[i] = values[codes[i / 2] >> 4];
        y[i + 1] = values[codes[i / 2] & 15];
      }
      if ((last - first) % 2) y[last - 1] = values[codes[last / 2] >> 4];
    }
  });
}

template <class T>
void unpack_int8(const Unpack& args, Stream& stream) {
  const int64_t cols = args.w.shape.cols();
  over_ranges(stream, args.w.shape.rows(), 1, cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float absmax = args.w.absmax.as<float>()[row];
      for (int64_t i = row * cols; i < (row + 1) * cols; ++i)
        args.y.as<T>()[i] =
            narrow<T>(float(args.w.codes.as<int8_t>()[i]) * absmax * (1.0f / 127.0f));
    }
  });
}

}  // namespace

void pack(const Pack& args, Stream& stream) {
  if (args.w.spec.type == PackedType::int8) return pack_int8(args, stream);
  const int64_t count = args.x.count(), blocks = (count + kPackedBlock - 1) / kPackedBlock;
  const float* x = args.x.as<float>();
  uint8_t* codes = args.w.codes.as<uint8_t>();
  std::vector<float> absmax(static_cast<size_t>(blocks));
  const bool nf4 = args.w.spec.type == PackedType::nf4;
  over_ranges(stream, blocks, 16, kPackedBlock * 16, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kPackedBlock, last = std::min(first + kPackedBlock, count);
      absmax[size_t(block)] = absmax_of(x + first, last - first);
      const float inverse = 1.0f / larger(absmax[size_t(block)], kSmallestAbsmax);
      const auto code_of = [&](int64_t i) {
        const float value = smaller(larger(x[i] * inverse, -1.0f), 1.0f);
        return nf4 ? nearest_nf4(value) : nearest_fp4(value);
      };
      for (int64_t i = first; i < last; i += 2)
        codes[i / 2] = uint8_t(code_of(i) << 4 | (i + 1 < last ? code_of(i + 1) : 0));
    }
  });
  if (args.w.spec.double_quant)
    pack_absmax(absmax, args.w);
  else
    std::copy(absmax.begin(), absmax.end(), args.w.absmax.as<float>());
}

void unpack(const Unpack& args, Stream& stream) {
  const bool int8 = args.w.spec.type == PackedType::int8;
  if (args.y.dtype == DType::f32)
    int8 ? unpack_int8<float>(args, stream) : unpack_4bit<float>(args, stream);
  else
    int8 ? unpack_int8<BFloat16>(args, stream) : unpack_4bit<BFloat16>(args, stream);
}

size_t matmul_packed_scratch_bytes(const MatmulPacked& args) {
  return size_t(args.w.shape.count()) * size_of(args.a.dtype);
}

void matmul_packed(const MatmulPacked& args, Stream& stream) {
  const View values{args.scratch.data, args.w.shape, args.a.dtype};
  unpack({args.w, values}, stream);
  matmul({args.a, values, args.c, args.form, false}, stream);
}

}  // namespace qat::cpu
