#include "models/gguf_names.h"

#include <algorithm>
#include <cctype>

namespace qat {
namespace {

struct Pair {
  std::string_view huggingface, gguf;
};
constexpr Pair kWhole[] = {{"model.embed_tokens.weight", "token_embd.weight"},
                           {"model.norm.weight", "output_norm.weight"},
                           {"lm_head.weight", "output.weight"}};
constexpr std::string_view kLayer = "model.layers.", kBlock = "blk.";
constexpr Pair kInLayer[] = {
    {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"}};

// "blk.12.attn_q.weight" -> prefix "blk.", "12.", "attn_q", ".weight", translated piece by piece.
std::string translate(std::string_view name, std::string_view Pair::*from,
                      std::string_view Pair::*to, std::string_view from_layer,
                      std::string_view to_layer) {
  for (const Pair& pair : kWhole)
    if (name == pair.*from) return std::string(pair.*to);
  if (!name.starts_with(from_layer)) return "";
  const std::string_view rest = name.substr(from_layer.size());
  const size_t dot = rest.find('.');
  if (dot == 0 || dot > 6 || dot == std::string_view::npos) return "";
  const std::string_view number = rest.substr(0, dot), tail = rest.substr(dot + 1);
  if (!std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; }) ||
      (number.size() > 1 && number[0] == '0'))
    return "";
  const size_t last = tail.rfind('.');
  if (last == std::string_view::npos) return "";
  const std::string_view kind = tail.substr(last);
  if (kind != ".weight" && kind != ".bias") return "";
  for (const Pair& pair : kInLayer)
    if (tail.substr(0, last) == pair.*from)
      return std::string(to_layer) + std::string(number) + "." + std::string(pair.*to) +
             std::string(kind);
  return "";
}

}  // namespace

std::string huggingface_name(std::string_view name) {
  return translate(name, &Pair::gguf, &Pair::huggingface, kBlock, kLayer);
}

std::string gguf_name(std::string_view name) {
  return translate(name, &Pair::huggingface, &Pair::gguf, kLayer, kBlock);
}

bool is_rotated(std::string_view name) {
  return name.find(".self_attn.q_proj.") != std::string_view::npos ||
         name.find(".self_attn.k_proj.") != std::string_view::npos;
}

void unpermute_rows(const float* stored, int64_t rows, int64_t width, int64_t head_dim,
                    float* out) {
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(stored + row * width, width, out + rotated_row(row, head_dim) * width);
}

}  // namespace qat
