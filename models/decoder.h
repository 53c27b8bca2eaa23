// The one decoder-only model. Families (Llama, Mistral, Qwen2, Qwen3) differ by fields of
// ModelConfig.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/graph/builder.h"
#include "engine/quant/quant_plan.h"
#include "engine/runtime/store.h"
#include "models/config.h"
#include "models/source.h"

namespace qat {

/// What the graph of a decoder is built for.
struct DecoderBuild {
  int64_t batch = 1;                ///< sequences
  int64_t sequence = 1;             ///< tokens a sequence
  DType dtype = DType::bf16;        ///< of activations
  DType weight_dtype = DType::f32;  ///< of the matrices in the Store (norms and biases are f32)
  std::string prefix;               ///< of parameter names and paths, e.g. "teacher."
  std::optional<int64_t> cache;     ///< tokens a KV cache holds; none = attention within the batch

  int64_t tokens() const { return batch * sequence; }
};

/// Input names shared by every program of a model: i32 [T].
constexpr const char* kTokens = "tokens";
constexpr const char* kTargets = "targets";           ///< next token, -1 where it does not count
constexpr const char* kPositions = "positions";       ///< within the document
constexpr const char* kFirst = "first";               ///< first visible token of the sequence
constexpr const char* kCacheLength = "cache_length";  ///< i32 [1]
constexpr const char* kInvTokens = "inv_tokens";      ///< f32 [1]
constexpr const char* kLogitRows = "logit_rows";      ///< i32, tokens whose logits are computed
constexpr const char* kRopeTable = "rope.cos_sin";

/// Final normalised hidden states [T, C].
Id decoder_hidden(Builder& b, const ModelConfig& config, const DecoderBuild& build);
/// Parts of it, for who runs a model layer by layer: the embedded tokens [T, C], what one layer
/// makes of hidden states x, and what the layers from `first` on and the norm behind them do.
Id decoder_embedding(Builder& b, const ModelConfig& config, const DecoderBuild& build);
Id decoder_layer(Builder& b, const ModelConfig& config, const DecoderBuild& build, Id x, int layer);
Id decoder_hidden_from(Builder& b, const ModelConfig& config, const DecoderBuild& build, Id x,
                       int64_t first);
/// The head's weight [V, C] in the compute dtype (the embedding when tied).
Id decoder_head(Builder& b, const ModelConfig& config, const DecoderBuild& build);

/// Where a QuantPlan has the embedding and the head.
constexpr const char* kEmbeddingPath = "model.embed_tokens";
constexpr const char* kHeadPath = "lm_head";
inline bool is_table(const std::string& path) {
  return path == kEmbeddingPath || path == kHeadPath;
}
/// The module whose weight a parameter is (model.layers.0.mlp.up_proj.weight -> ...up_proj);
/// another parameter's name as it is.
std::string module_of_weight(const std::string& parameter);
/// The layer that model.layers.N.... lies in.
int64_t layer_of(const std::string& path);
/// How many linears of decoder layers a plan quantizes.
int64_t planned_linears(const QuantPlan& plan);

/// Paths of the quantizable linears, in forward order: model.layers.N.self_attn.q_proj, ...
std::vector<std::string> decoder_linears(const ModelConfig& config);
/// Where a QuantPlan has a layer's KV cache.
std::string attention_path(int64_t layer);
/// Input and output width of such a linear.
Shape linear_shape(const ModelConfig& config, const std::string& path);
/// Names and shapes of a plan's trained scales (f32).
std::vector<SourceTensor> scale_tensors(const QuantPlan& plan, const ModelConfig& config);

/// Reads every parameter into the Store under prefix + its Hugging Face name; matrices as `dtype`.
void load_parameters(const ModelSource& source, Store& store, const std::string& prefix,
                     DType dtype, Category category);
/// Reads a model as it is served: the linears that quantization() gives a weight grid as codes and
/// scales (LinearQuant::stored_weight), static activation grids, every other parameter as `dtype`
/// under its name. Returns the plan to run it with.
QuantPlan load_deployed(const ModelSource& source, Store& store, DType dtype, Category category);
/// Fresh parameters: normal(0, initializer_range) matrices as `dtype`, unit norms, zero biases.
void initialize_parameters(const ModelConfig& config, Store& store, float initializer_range,
                           uint64_t seed, DType dtype = DType::f32);
/// Cosines and sines of every position, with the configuration's scaling (f32 as transformers
/// does), under prefix + kRopeTable.
void fill_rope_table(const ModelConfig& config, Store& store, const std::string& prefix);

}  // namespace qat
