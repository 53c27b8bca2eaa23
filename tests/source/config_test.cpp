#include <gtest/gtest.h>

#include "models/families.h"
#include "models/source.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::refusal;

Json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 172},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4},
          {"vocab_size", 512},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"}};
}

Json of(const char* type, const char* name) {
  Json json = llama();
  json["model_type"] = type;
  json["architectures"] = {name};
  return json;
}

ModelConfig read(const Json& json) {
  return config_from_huggingface(json, "config.json");
}

Json with(Json json, const char* key, Json value) {
  json[key] = std::move(value);
  return json;
}

TEST(Config, Llama) {
  const ModelConfig c = read(llama());
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_FALSE(c.tied_head);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_EQ(c.max_positions, 2048);
  EXPECT_FALSE(c.sliding_window);
  const ModelConfig biased = read(with(llama(), "attention_bias", true));
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias);
  EXPECT_TRUE(read(with(llama(), "mlp_bias", true)).mlp_bias);
  Json full = llama();
  full.erase("num_key_value_heads");
  EXPECT_EQ(read(full).kv_heads, 8);
  EXPECT_EQ(read(with(llama(), "eos_token_id", {2, 3})).eos_ids, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(read(with(llama(), "head_dim", 16)).q_width(), 128);
}

TEST(Config, BothGenerationsOfRopeKeys) {
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 32.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  Json older = with(with(llama(), "rope_theta", 500000.0), "rope_scaling", scaling);
  Json newer = with(llama(), "rope_parameters", with(scaling, "rope_theta", 500000.0));
  for (const Json& json : {older, newer}) {
    const ModelConfig c = read(json);
    EXPECT_EQ(c.rope_scaling, RopeScaling::llama3);
    EXPECT_EQ(c.rope_theta, 500000.0);
    EXPECT_EQ(c.rope_factor, 32.0);
    EXPECT_EQ(c.rope_original_positions, 8192);
  }
  const ModelConfig linear =
      read(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2.5}}));
  EXPECT_EQ(linear.rope_scaling, RopeScaling::linear);
  EXPECT_EQ(linear.rope_factor, 2.5);
  EXPECT_EQ(read(with(llama(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7e4}}))
                .rope_theta,
            7e4);
  EXPECT_EQ(read(with(llama(), "dtype", "bfloat16")).dtype, "bfloat16");
  EXPECT_EQ(read(with(llama(), "torch_dtype", "float16")).dtype, "float16");
}

TEST(Config, Families) {
  const ModelConfig qwen2 = read(of("qwen2", "Qwen2ForCausalLM"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  const ModelConfig qwen3 = read(of("qwen3", "Qwen3ForCausalLM"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_dim, 128);  // the class's default
  const Json mistral = of("mistral", "MistralForCausalLM");
  EXPECT_EQ(read(mistral).sliding_window, 4096);  // the class's default
  EXPECT_FALSE(read(with(mistral, "sliding_window", nullptr)).sliding_window);
  EXPECT_EQ(read(with(mistral, "sliding_window", 128)).sliding_window, 128);
}

TEST(Config, QwenSlidingWindow) {
  Json json = of("qwen2", "Qwen2ForCausalLM");
  json["sliding_window"] = 128;
  json["max_window_layers"] = 1;
  EXPECT_FALSE(read(json).sliding_window);  // use_sliding_window is false
  json["use_sliding_window"] = true;
  expect_mentions(refusal([&] { read(json); }), "max_window_layers");
  json["max_window_layers"] = 2;
  EXPECT_FALSE(read(json).sliding_window);  // no layer has it
  json["max_window_layers"] = 0;
  EXPECT_EQ(read(json).sliding_window, 128);
  json["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_FALSE(read(json).sliding_window);
  json["layer_types"] = {"full_attention", "sliding_attention"};
  expect_mentions(refusal([&] { read(json); }), "layer_types");
}

struct Refusal {
  const char* key;
  Json value;
};

TEST(fault_E5_Config, RefusesByName) {
  const std::vector<Refusal> cases = {
      {"model_type", "gpt2"},
      {"model_type", nullptr},
      {"model_type", 3},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", -1},
      {"num_hidden_layers", 1'000'000'000},
      {"num_hidden_layers", "2"},
      {"num_hidden_layers", 2.0},
      {"num_hidden_layers", nullptr},
      {"hidden_size", 63},
      {"hidden_size", 0},
      {"hidden_size", uint64_t(1) << 63},
      {"num_attention_heads", 0},
      {"num_attention_heads", -8},
      {"num_key_value_heads", 3},
      {"num_key_value_heads", 0},
      {"head_dim", 7},
      {"vocab_size", 0},
      {"vocab_size", -5},
      {"rms_norm_eps", -1.0},
      {"rms_norm_eps", "1e-5"},
      {"rope_theta", 0.0},
      {"rope_theta", -1.0},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}},
      {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 4.0}}},
      {"rope_scaling", {{"rope_type", "linear"}}},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", 0.0}}},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}, {"beta_fast", 3}}},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
      {"rope_scaling", "linear"},
      {"rope_parameters", {{"partial_rotary_factor", 0.5}}},
      {"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}},
      {"partial_rotary_factor", 0.5},
      {"rope_interleaved", true},
      {"hidden_act", "gelu"},
      {"attention_bias", "yes"},
      {"sliding_window", 128},
      {"attention_dropout", 0.1},
      {"final_logit_softcapping", 30.0},
      {"attn_logit_softcapping", 50.0},
      {"embedding_multiplier", 12.0},
      {"residual_multiplier", 0.2},
      {"logits_scaling", 8.0},
      {"query_pre_attn_scalar", 256},
      {"use_mup", true},
      {"my_note", "trained on Tuesday"},
      {"auto_map", {{"AutoModelForCausalLM", "modeling.Mine"}}},
      {"is_encoder_decoder", true},
      {"pruned_heads", {{"0", {1}}}},
      {"num_local_experts", 8},
      {"no_rope_layers", {1, 0}},
      {"layer_types", {"full_attention"}},
      {"bos_token_id", 512},
      {"eos_token_id", {1, -7}},
      {"torch_dtype", "int8"},
  };
  for (const Refusal& c : cases) {
    SCOPED_TRACE(std::string(c.key) + " = " + c.value.dump());
    expect_mentions(refusal([&] { read(with(llama(), c.key, c.value)); }), "config.json");
  }
  // The key itself is named where a key is at fault.
  for (const char* key : {"final_logit_softcapping", "rope_interleaved", "partial_rotary_factor"})
    expect_mentions(refusal([&] { read(with(llama(), key, 0.5)); }), key);
  expect_mentions(
      refusal([&] { read(with(of("qwen2", "Qwen2ForCausalLM"), "attention_bias", false)); }),
      "attention_bias");
  expect_mentions(
      refusal([&] { read(with(of("mistral", "MistralForCausalLM"), "attention_bias", true)); }),
      "attention_bias");
  expect_mentions(refusal([&] { read(with(of("qwen3", "Qwen3ForCausalLM"), "mlp_bias", true)); }),
                  "mlp_bias");
}

TEST(Config, LetsNeutralAndForeignKeysPass) {
  Json json = llama();
  json.update({{"rope_interleaved", false},
               {"attention_dropout", 0.0},
               {"logit_scale", 1.0},
               {"partial_rotary_factor", 1.0},
               {"final_logit_softcapping", nullptr},
               {"use_mrope", false},
               {"is_llama_config", true},
               {"pretraining_tp", 4},
               {"transformers.js_config", {{"dtype", "q4"}}},
               {"_name_or_path", "someone/model"},
               {"unsloth_version", "2024.9"},
               {"pad_token_id", -1}});
  EXPECT_EQ(read(json).layers, 2);
  EXPECT_EQ(unknown_keys(json), std::vector<std::string>{"logit_scale = 1.0"});
  json.update({{"use_mup", false}, {"residual_multiplier", 1}, {"note", ""}, {"experts", nullptr}});
  EXPECT_EQ(read(json).layers, 2);
  EXPECT_EQ(unknown_keys(json).size(), 5u);
}

TEST(fault_E5_Config, AnUnknownKeyIsRefusedByNameWithWhatToDo) {
  // Nothing in this name smells of mathematics.
  const std::string message = refusal([&] { read(with(llama(), "zeta", 0.5)); });
  expect_mentions(message, "zeta = 0.5");
  expect_mentions(message, "llama");
  expect_mentions(message, "remove the key from config.json");
}

TEST(Config, WhatWeWriteReadsBack) {
  for (Json json : {llama(), of("mistral", "MistralForCausalLM"), of("qwen2", "Qwen2ForCausalLM"),
                    of("qwen3", "Qwen3ForCausalLM"), with(llama(), "attention_bias", true)}) {
    json["rms_norm_eps"] = 1e-6;
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
    json["tie_word_embeddings"] = true;
    json["eos_token_id"] = {2, 5};
    const ModelConfig c = read(json);
    const ModelConfig back = read(parse_json(config_to_huggingface(c), "written"));
    EXPECT_EQ(back.architecture, c.architecture);
    EXPECT_EQ(back.qkv_bias, c.qkv_bias);
    EXPECT_EQ(back.o_bias, c.o_bias);
    EXPECT_EQ(back.head_dim, c.head_dim);
    EXPECT_EQ(back.norm_eps, c.norm_eps);
    EXPECT_EQ(back.rope_factor, c.rope_factor);
    EXPECT_EQ(back.rope_scaling, c.rope_scaling);
    EXPECT_EQ(back.sliding_window, c.sliding_window);
    EXPECT_EQ(back.tied_head, c.tied_head);
    EXPECT_EQ(back.eos_ids, c.eos_ids);
    EXPECT_EQ(back.parameters(), c.parameters());
  }
}

TEST(Config, ExpectedTensorsOfAKnownModel) {
  // SmolLM2-135M: 134,515,008 parameters, 272 tensors.
  ModelConfig c;
  c.hidden = 576, c.ffn = 1536, c.layers = 30, c.heads = 9, c.kv_heads = 3, c.head_dim = 64;
  c.vocab = 49152, c.tied_head = true;
  EXPECT_EQ(c.parameters(), 134'515'008);
  EXPECT_EQ(expected_tensors(c).size(), 272u);
}

}  // namespace
}  // namespace qat
