// config.json, read and written. Every key is one of: understood (its value is checked against the
// family below); known to leave the forward pass alone; known with one value that is computed. Any
// other key passes with a neutral value (null, false, 0, empty) and a note, and is refused else:
// what it does to the model cannot be told from its name.
#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <set>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/printable.h"
#include "models/families.h"

namespace qat {
namespace {

// Read below, by the class `Reader`.
const std::set<std::string_view> kUnderstood = {"model_type",
                                                "architectures",
                                                "hidden_size",
                                                "intermediate_size",
                                                "num_hidden_layers",
                                                "num_attention_heads",
                                                "num_key_value_heads",
                                                "head_dim",
                                                "vocab_size",
                                                "max_position_embeddings",
                                                "rms_norm_eps",
                                                "hidden_act",
                                                "tie_word_embeddings",
                                                "attention_bias",
                                                "mlp_bias",
                                                "rope_theta",
                                                "rope_scaling",
                                                "rope_parameters",
                                                "sliding_window",
                                                "use_sliding_window",
                                                "max_window_layers",
                                                "layer_types",
                                                "bos_token_id",
                                                "eos_token_id",
                                                "pad_token_id",
                                                "torch_dtype",
                                                "dtype",
                                                "online_rotation",
                                                "quantization_config"};

// Known to leave the forward pass alone, whatever their value: what transformers writes beside a
// model (PreTrainedConfig, generation settings), and what other programs leave.
const std::set<std::string_view> kHarmless = {"_attn_implementation",
                                              "_attn_implementation_autoset",
                                              "_attn_implementation_internal",
                                              "_commit_hash",
                                              "_name_or_path",
                                              "attn_implementation",
                                              "bad_words_ids",
                                              "begin_suppress_tokens",
                                              "cache_implementation",
                                              "chunk_size_feed_forward",
                                              "decoder_start_token_id",
                                              "diversity_penalty",
                                              "do_sample",
                                              "early_stopping",
                                              "embd_initializer_range",
                                              "encoder_no_repeat_ngram_size",
                                              "exponential_decay_length_penalty",
                                              "finetuning_task",
                                              "forced_bos_token_id",
                                              "forced_eos_token_id",
                                              "gradient_checkpointing",
                                              "id2label",
                                              "initializer_range",
                                              "is_decoder",
                                              "is_llama_config",
                                              "label2id",
                                              "length_penalty",
                                              "max_length",
                                              "max_new_tokens",
                                              "min_length",
                                              "name_or_path",
                                              "no_repeat_ngram_size",
                                              "num_beam_groups",
                                              "num_beams",
                                              "num_labels",
                                              "num_return_sequences",
                                              "output_attentions",
                                              "output_hidden_states",
                                              "output_scores",
                                              "prefix",
                                              "pretraining_tp",
                                              "problem_type",
                                              "remove_invalid_values",
                                              "repetition_penalty",
                                              "return_dict",
                                              "return_dict_in_generate",
                                              "sep_token_id",
                                              "suppress_tokens",
                                              "task_specific_params",
                                              "temperature",
                                              "tf_legacy_loss",
                                              "tie_encoder_decoder",
                                              "tokenizer_class",
                                              "tokenizer_model_max_length",
                                              "top_k",
                                              "top_p",
                                              "torchscript",
                                              "transformers.js_config",
                                              "transformers_version",
                                              "typical_p",
                                              "unk_token_id",
                                              "unsloth_fixed",
                                              "unsloth_version",
                                              "use_bfloat16",
                                              "use_cache",
                                              "xla_device"};

// Known, and computed for one value only: the neutral one.
const std::set<std::string_view> kNeutralOnly = {"add_cross_attention",
                                                 "attention_dropout",
                                                 "attn_logit_softcapping",
                                                 "cross_attention_hidden_size",
                                                 "embd_pdrop",
                                                 "final_logit_softcapping",
                                                 "hidden_dropout",
                                                 "is_encoder_decoder",
                                                 "partial_rotary_factor",
                                                 "pruned_heads",
                                                 "resid_pdrop",
                                                 "rope_interleaved",
                                                 "use_mrope"};

bool neutral(const Json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0.0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_structured() && value.empty();
}

// Multipliers are neutral at 1.
bool neutral(const std::string& key, const Json& value) {
  if (neutral(value)) return true;
  for (const char* word : {"multiplier", "scale", "scaling", "factor"})
    if (key.find(word) != std::string::npos) return value.is_number() && value.get<double>() == 1.0;
  return false;
}

bool known(const std::string& key) {
  return kUnderstood.contains(key) || kHarmless.contains(key) || kNeutralOnly.contains(key);
}

class Reader {
 public:
  Reader(const Json& json, std::string file) : json_(json), file_(std::move(file)) {}

  ModelConfig read() {
    if (!json_.is_object()) refuse("{}: expected a JSON object", file_);
    const std::string type = text("model_type", "");
    family_ = find_family(type);
    if (!family_)
      refuse("{}: model_type is {}, expected one of {}", file_,
             type.empty() ? "missing" : "\"" + printable(type) + "\"", family_names());
    check_class();
    refuse_unknown();

    ModelConfig c;
    c.architecture = family_->model_type;
    c.hidden = size("hidden_size");
    c.ffn = size("intermediate_size");
    c.layers = size("num_hidden_layers");
    c.heads = size("num_attention_heads");
    c.vocab = size("vocab_size");
    c.kv_heads = integer("num_key_value_heads", c.heads);
    c.head_dim = head_dim(c);
    c.max_positions = integer("max_position_embeddings", family_->default_max_positions);
    c.norm_eps = float(real("rms_norm_eps", 1e-6));
    const std::string act = text("hidden_act", "silu");
    if (act != "silu" && act != "swish")
      refuse("{}: hidden_act is \"{}\", only silu is computed", file_, printable(act));
    c.tied_head = flag("tie_word_embeddings", false);
    biases(c);
    c.qk_norm = family_->qk_norm;
    rope(c);
    window(c);
    tokens(c);
    dtype(c);
    online_rotation(c);
    check_config(c, file_);
    return c;
  }

 private:
  const Json* find(const char* key) const {
    const auto at = json_.find(key);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  [[noreturn]] void wrong(const char* key, const Json& value, const char* wanted) const {
    refuse("{}: {} is {}, expected {}", file_, key, printable(value.dump()), wanted);
  }
  std::string text(const char* key, const char* otherwise) const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->is_string()) wrong(key, *value, "a string");
    return value->get<std::string>();
  }
  int64_t integer(const char* key, int64_t otherwise) const {
    const Json* value = find(key);
    return value ? integer_of(key, *value) : otherwise;
  }
  int64_t integer_of(const char* key, const Json& value) const {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX)))
      wrong(key, value, "an integer");
    return value.get<int64_t>();
  }
  int64_t size(const char* key) const {
    const Json* value = find(key);
    if (!value) refuse("{}: {} is missing", file_, key);
    return integer_of(key, *value);
  }
  double real(const char* key, double otherwise) const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->is_number()) wrong(key, *value, "a number");
    return value->get<double>();
  }
  bool flag(const char* key, bool otherwise) const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->is_boolean()) wrong(key, *value, "true or false");
    return value->get<bool>();
  }

  void check_class() const {
    const Json* classes = find("architectures");
    if (!classes) return;
    if (!classes->is_array()) wrong("architectures", *classes, "a list of class names");
    for (const Json& name : *classes)
      if (name != family_->class_name)
        refuse("{}: architectures names {}, only {} is read for model_type {}", file_,
               printable(name.dump()), family_->class_name, family_->model_type);
  }

  void refuse_unknown() const {
    for (const auto& [key, value] : json_.items()) {
      if (kUnderstood.contains(key) || kHarmless.contains(key) || neutral(key, value)) continue;
      if (kNeutralOnly.contains(key))
        refuse(
            "{}: {} = {} changes what the model computes, and only its neutral value is computed",
            file_, key, printable(value.dump(), 60));
      refuse(
          "{}: {} = {} is a key that is not known for a {} model and may change what it computes; "
          "if it does not, remove the key from config.json",
          file_, printable(key), printable(value.dump(), 60), family_->model_type);
    }
  }

  int64_t head_dim(const ModelConfig& c) const {
    if (const Json* value = find("head_dim")) return integer_of("head_dim", *value);
    if (family_->default_head_dim) return family_->default_head_dim;
    if (c.heads < 1 || c.hidden % c.heads != 0)
      refuse(
          "{}: hidden_size {} does not divide among num_attention_heads {}, and head_dim is "
          "missing",
          file_, c.hidden, c.heads);
    return c.hidden / c.heads;
  }

  void biases(ModelConfig& c) const {
    const Json* attention = find("attention_bias");
    const bool attention_bias = flag("attention_bias", family_->always_qkv_bias);
    if (attention && !family_->attention_bias_key && attention_bias != family_->always_qkv_bias)
      wrong("attention_bias", *attention,
            family_->always_qkv_bias ? "true: this family has biases on q, k and v"
                                     : "false: this family has no biases");
    c.qkv_bias = attention_bias;
    c.o_bias = family_->attention_bias_key && attention_bias;
    c.mlp_bias = flag("mlp_bias", false);
    if (c.mlp_bias && !family_->mlp_bias_key)
      wrong("mlp_bias", *find("mlp_bias"), "false: this family has no MLP biases");
  }

  // rope_theta + rope_scaling (older), or rope_parameters (newer); the object may hold the theta.
  void rope(ModelConfig& c) const {
    const Json* scaling = find("rope_scaling");
    const Json* parameters = find("rope_parameters");
    if (scaling && parameters && *scaling != *parameters)
      refuse("{}: rope_scaling and rope_parameters are both given and differ; keep one", file_);
    const char* key = parameters ? "rope_parameters" : "rope_scaling";
    const Json* object = parameters ? parameters : scaling;
    c.rope_theta = real("rope_theta", 10000.0);
    if (!object) return;
    if (!object->is_object()) wrong(key, *object, "an object");
    const auto number = [&](const char* name) -> const Json* {
      const auto at = object->find(name);
      if (at == object->end() || at->is_null()) return nullptr;
      if (!at->is_number()) refuse("{}: {}.{} is not a number", file_, key, name);
      return &*at;
    };
    const auto needed = [&](const char* name) {
      const Json* value = number(name);
      if (!value) refuse("{}: {}.{} is missing", file_, key, name);
      return value->get<double>();
    };
    std::string type = "default";
    for (const char* name : {"type", "rope_type"})
      if (const auto at = object->find(name); at != object->end() && !at->is_null()) {
        if (!at->is_string()) refuse("{}: {}.{} is not a string", file_, key, name);
        type = at->get<std::string>();
      }
    std::set<std::string_view> known = {"type", "rope_type", "rope_theta"};
    if (type == "linear") {
      c.rope_scaling = RopeScaling::linear;
      c.rope_factor = needed("factor");
      known.insert("factor");
    } else if (type == "llama3") {
      c.rope_scaling = RopeScaling::llama3;
      c.rope_factor = needed("factor");
      c.rope_low_freq_factor = needed("low_freq_factor");
      c.rope_high_freq_factor = needed("high_freq_factor");
      const double original = needed("original_max_position_embeddings");
      if (!(original >= 1 && original <= 0x1p32))
        refuse("{}: {}.original_max_position_embeddings is {}", file_, key, original);
      c.rope_original_positions = int64_t(original);
      known.insert(
          {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
    } else if (type != "default") {
      refuse("{}: {} has the type \"{}\"; default, linear and llama3 are computed", file_, key,
             printable(type));
    }
    for (const auto& [name, value] : object->items()) {
      if (known.contains(name) || value.is_null()) continue;
      if (name == "partial_rotary_factor" && value == 1.0) continue;
      // Some writers leave the factor of 1 in a default object.
      if (name == "factor" && value == 1.0) continue;
      refuse("{}: {}.{} = {} is not understood for rope type {}", file_, key, printable(name),
             printable(value.dump(), 60), type);
    }
    if (const Json* theta = number("rope_theta")) {
      if (find("rope_theta") && theta->get<double>() != c.rope_theta)
        refuse("{}: rope_theta is {} at the top and {} in {}", file_, c.rope_theta,
               theta->get<double>(), key);
      c.rope_theta = theta->get<double>();
    }
  }

  // Mistral: one window for all layers. Qwen: only if use_sliding_window, from max_window_layers
  // on.
  void window(ModelConfig& c) const {
    const std::string_view type = family_->model_type;
    const Json* given = find("sliding_window");
    int64_t from_layer = 0;
    if (type == "mistral") {
      if (given) c.sliding_window = integer_of("sliding_window", *given);
      // The class's own default when the key is not there at all (null means none).
      if (!json_.contains("sliding_window")) c.sliding_window = 4096;
      if (flag("use_sliding_window", true) == false) c.sliding_window.reset();
    } else if (type == "llama") {
      if (given) wrong("sliding_window", *given, "null: llama attends to all positions");
      if (flag("use_sliding_window", false))
        refuse("{}: use_sliding_window is true, which llama has not", file_);
    } else if (flag("use_sliding_window", false)) {
      c.sliding_window = given ? integer_of("sliding_window", *given) : 4096;
      from_layer = integer("max_window_layers", 28);
      if (from_layer >= c.layers) c.sliding_window.reset();
    }
    layer_types(c, from_layer);
    if (c.sliding_window && *c.sliding_window >= c.max_positions && *c.sliding_window > 0)
      c.sliding_window.reset();  // never reached
  }

  void layer_types(ModelConfig& c, int64_t from_layer) const {
    const Json* types = find("layer_types");
    if (!types) {
      if (c.sliding_window && from_layer > 0)
        refuse(
            "{}: max_window_layers is {}: a sliding window in some of the {} layers only is not "
            "computed",
            file_, from_layer, c.layers);
      return;
    }
    if (!types->is_array() || int64_t(types->size()) != c.layers)
      wrong("layer_types", *types, "a list with one entry a layer");
    const auto all = [&](const char* name) {
      return std::all_of(types->begin(), types->end(), [&](const Json& t) { return t == name; });
    };
    if (all("full_attention")) {
      c.sliding_window.reset();
    } else if (!all("sliding_attention")) {
      refuse("{}: layer_types must be all full_attention or all sliding_attention", file_);
    } else if (!c.sliding_window) {
      refuse("{}: layer_types says sliding_attention, but no sliding_window is in use", file_);
    }
  }

  void tokens(ModelConfig& c) const {
    c.bos_id = one_token("bos_token_id");
    c.pad_id = one_token("pad_token_id");
    if (c.pad_id >= c.vocab) {
      log::warn("{}: pad_token_id {} is outside the vocabulary of {}; ignored", file_, c.pad_id,
                c.vocab);
      c.pad_id = -1;
    }
    const Json* eos = find("eos_token_id");
    if (!eos) return;
    if (!eos->is_array()) {
      if (const int64_t id = integer_of("eos_token_id", *eos); id != -1) c.eos_ids = {id};
      return;
    }
    if (eos->size() > 1000) refuse("{}: eos_token_id has {} entries", file_, eos->size());
    for (const Json& id : *eos) c.eos_ids.push_back(integer_of("eos_token_id", id));
  }
  // Some files hold a list of one.
  int64_t one_token(const char* key) const {
    const Json* value = find(key);
    if (!value) return -1;
    if (value->is_array()) return value->empty() ? -1 : integer_of(key, value->front());
    return integer_of(key, *value);
  }

  void dtype(ModelConfig& c) const {
    const std::string given = text(find("dtype") ? "dtype" : "torch_dtype", "float32");
    const std::string name = given.starts_with("torch.") ? given.substr(6) : given;
    if (name != "float32" && name != "float16" && name != "bfloat16" && name != "auto")
      refuse("{}: dtype is \"{}\", expected float32, float16 or bfloat16", file_, printable(given));
    c.dtype = name == "auto" ? "float32" : name;
  }

  // Written by qat-train alone: what its rotated weights count on.
  void online_rotation(ModelConfig& c) const {
    const Json* places = find("online_rotation");
    if (!places) return;
    if (!places->is_array()) wrong("online_rotation", *places, "a list of down_proj, keys");
    for (const Json& place : *places)
      if (place == "down_proj")
        c.online_down = true;
      else if (place == "keys")
        c.online_keys = true;
      else
        wrong("online_rotation", place, "down_proj or keys");
  }

  const Json& json_;
  std::string file_;
  const Family* family_ = nullptr;
};

// A float as the shortest decimal that reads back to it: 1e-05, not 9.99999974e-06.
Json shortest(float value) {
  return Json::parse(fmt::format("{}", value));
}

}  // namespace

ModelConfig config_from_huggingface(const Json& json, const std::string& file) {
  return Reader(json, file).read();
}

std::vector<std::string> unknown_keys(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items())
    if (!known(key)) keys.push_back(printable(key, 40) + " = " + printable(value.dump(), 40));
  return keys;
}

std::string config_to_huggingface(const ModelConfig& c) {
  const Family* family = find_family(c.architecture);
  if (!family) internal_error("config_to_huggingface: unknown architecture {}", c.architecture);
  if (!c.rope_freq_divisors.empty())
    refuse(
        "the rope divisors of this GGUF (rope_freqs.weight) are not those of a llama3 scaling, "
        "which is all a config.json can say");
  if (c.qkv_bias != (family->always_qkv_bias || (family->attention_bias_key && c.o_bias)))
    refuse("a {} model with biases on q, k, v but not on o (or the reverse) has no config.json",
           c.architecture);
  Json json = {{"architectures", {family->class_name}},
               {"model_type", family->model_type},
               {"hidden_size", c.hidden},
               {"intermediate_size", c.ffn},
               {"num_hidden_layers", c.layers},
               {"num_attention_heads", c.heads},
               {"num_key_value_heads", c.kv_heads},
               {"head_dim", c.head_dim},
               {"vocab_size", c.vocab},
               {"max_position_embeddings", c.max_positions},
               {"rms_norm_eps", shortest(c.norm_eps)},
               {"hidden_act", "silu"},
               {"initializer_range", 0.02},
               {"use_cache", true},
               {"tie_word_embeddings", c.tied_head},
               {"attention_dropout", 0.0},
               {"rope_theta", c.rope_theta},
               {"rope_scaling", nullptr},
               {"bos_token_id", nullptr},
               {"eos_token_id", nullptr},
               {"pad_token_id", nullptr},
               {"torch_dtype", c.dtype}};
  if (family->attention_bias_key) json["attention_bias"] = c.o_bias;
  if (family->mlp_bias_key) json["mlp_bias"] = c.mlp_bias;
  if (c.rope_scaling == RopeScaling::linear)
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", c.rope_factor}};
  if (c.rope_scaling == RopeScaling::llama3)
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", c.rope_factor},
                            {"low_freq_factor", c.rope_low_freq_factor},
                            {"high_freq_factor", c.rope_high_freq_factor},
                            {"original_max_position_embeddings", c.rope_original_positions}};
  const std::string_view type = family->model_type;
  if (type == "mistral") {
    json["sliding_window"] = c.sliding_window ? Json(*c.sliding_window) : Json(nullptr);
  } else if (type != "llama" && c.sliding_window) {
    json["use_sliding_window"] = true;
    json["sliding_window"] = *c.sliding_window;
    json["max_window_layers"] = 0;
  } else if (c.sliding_window) {
    refuse("a {} model with a sliding window has no config.json", c.architecture);
  }
  if (c.bos_id >= 0) json["bos_token_id"] = c.bos_id;
  if (c.pad_id >= 0) json["pad_token_id"] = c.pad_id;
  if (c.eos_ids.size() == 1) json["eos_token_id"] = c.eos_ids[0];
  if (c.eos_ids.size() > 1) json["eos_token_id"] = c.eos_ids;
  return json.dump(2) + "\n";
}

}  // namespace qat
