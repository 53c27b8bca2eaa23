// The element encodings of GGUF tensors: sizes of all, decoding of those we read. Layouts and the
// order of the float operations are ggml's (ggml-quants.c), so that values agree to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace qat {

/// ggml's ids of the tensor types we decode.
enum class GgufType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30
};

/// `elements` consecutive elements of a row take `bytes`.
struct GgufBlock {
  const char* name;
  int64_t elements;
  int64_t bytes;
  bool decodable;
};

/// nullptr for an id ggml does not know.
const GgufBlock* gguf_block(uint32_t type);
/// "Q4_1 (3)" for messages, "type 99" when unknown.
std::string gguf_type_name(uint32_t type);

/// Sub-block j's 6-bit scale and minimum out of the 12 packed bytes of Q4_K and Q5_K.
struct KScaleMinimum {
  int scale, minimum;
};
KScaleMinimum k_scale_minimum(const std::byte* packed, int j);

/// Decodes `blocks` consecutive blocks of a decodable type into blocks * elements floats.
void decode_blocks(GgufType type, const std::byte* from, int64_t blocks, float* out);

}  // namespace qat
