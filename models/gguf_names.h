// Hugging Face and GGUF names of the same tensors, and the row order of q and k in llama files.
//
// Hugging Face rotates pairs (i, i + d/2) of a head of d channels, llama.cpp's llama graph pairs
// (2i, 2i + 1): row 2i + h of a GGUF head is row h * d/2 + i of a Hugging Face head, h in {0, 1}.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qat {

/// "" if the name is none of a decoder's.
std::string huggingface_name(std::string_view gguf_name);
std::string gguf_name(std::string_view huggingface_name);

/// True for the weights and biases of q_proj and k_proj.
bool is_rotated(std::string_view huggingface_name);

/// The row of the Hugging Face tensor that stands in row `row` of a llama GGUF tensor.
inline int64_t rotated_row(int64_t row, int64_t head_dim) {
  const int64_t head = row / head_dim, in_head = row % head_dim;
  return head * head_dim + (in_head % 2) * (head_dim / 2) + in_head / 2;
}

/// out[rotated_row(r)] = stored[r] for rows of `width` elements.
void unpermute_rows(const float* stored, int64_t rows, int64_t width, int64_t head_dim, float* out);

}  // namespace qat
