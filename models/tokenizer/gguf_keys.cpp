// tokenizer.json to llama.cpp's keys: the inverse of gguf_vocabulary.cpp.
#include "models/tokenizer/gguf_keys.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "models/tokenizer/json_fields.h"
#include "models/tokenizer/pre_tokenizer.h"
#include "models/tokenizer/tokenizer_document.h"

namespace qat {
namespace {

constexpr const char* kMark = "\xE2\x96\x81";  // U+2581, a space
constexpr const char* kName = "gguf export: tokenizer.json";

[[noreturn]] void refuse_tokenizer(const std::string& what) {
  refuse("gguf export: llama.cpp cannot follow this tokenizer: {}; remove gguf from `export`",
         what);
}

// What a normalizer and a pre-tokenizer are made of.
struct Steps {
  bool byte_level = false, gpt2_regex = false, digits = false, nfc = false;
  bool prefix_mark = false, marks = false;
  std::vector<std::string> regexes;
};

void read_normalizer(const Field& field, Steps& steps) {
  if (!field.present()) return;
  const std::string& type = field.type();
  if (type == "Sequence") {
    for (size_t i = 0; i < field["normalizers"].list_size(); ++i)
      read_normalizer(field["normalizers"].item(i), steps);
  } else if (type == "NFC") {
    steps.nfc = true;
  } else if (type == "Prepend" && field["prepend"].text() == kMark) {
    steps.prefix_mark = true;
  } else if (type == "Replace" && field["pattern"]["String"].present() &&
             field["pattern"]["String"].text() == " " && field["content"].text() == kMark) {
    steps.marks = true;
  } else {
    refuse_tokenizer("its normalizer has a step " + type);
  }
}

void read_pre_tokenizer(const Field& field, Steps& steps) {
  if (!field.present()) return;
  const std::string& type = field.type();
  if (type == "Sequence") {
    for (size_t i = 0; i < field["pretokenizers"].list_size(); ++i)
      read_pre_tokenizer(field["pretokenizers"].item(i), steps);
  } else if (type == "ByteLevel") {
    if (field["add_prefix_space"].flag(true)) refuse_tokenizer("it adds a space before the text");
    steps.byte_level = true;
    steps.gpt2_regex = field["use_regex"].flag(true);
  } else if (type == "Digits" && field["individual_digits"].flag(false) && steps.regexes.empty()) {
    steps.digits = true;
  } else if (type == "Split" && field["pattern"]["Regex"].present() &&
             field["behavior"].text() == "Isolated" && !field["invert"].flag(false)) {
    steps.regexes.push_back(field["pattern"]["Regex"].text());
  } else if (type == "Metaspace" && field["replacement"].text() == kMark) {
    const Field scheme = field["prepend_scheme"];
    steps.marks = true;
    steps.prefix_mark =
        scheme.present() ? scheme.text() != "never" : field["add_prefix_space"].flag(true);
  } else {
    refuse_tokenizer("its pre-tokenizer has a step " + type);
  }
}

// The name llama.cpp knows the steps by.
std::string pre_name(const Steps& steps, bool ignores_merges) {
  std::string name;
  if (steps.regexes.empty() && steps.gpt2_regex) {
    name = steps.digits ? "smollm" : "gpt-2";
  } else if (steps.regexes.size() == 1 && !steps.gpt2_regex && !steps.digits) {
    if (steps.regexes[0] == kGpt2Regex) name = "gpt-2";
    if (steps.regexes[0] == kLlama3Regex) name = "llama-bpe";
    if (steps.regexes[0] == kQwen2Regex) name = "qwen2";
  }
  if (name.empty())
    refuse_tokenizer("its pre-tokenizer is none of gpt-2, smollm, llama-bpe and qwen2");
  if (ignores_merges != (name == "llama-bpe"))
    refuse_tokenizer(
        fmt::format("ignore_merges is {} with the pre-tokenizer {}", ignores_merges, name));
  return name;
}

bool is_byte_piece(std::string_view piece) {
  return piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>') &&
         std::isxdigit(static_cast<unsigned char>(piece[3])) &&
         std::isxdigit(static_cast<unsigned char>(piece[4]));
}

class Keys {
 public:
  Keys(const Tokenizer& tokenizer, const ModelConfig& config)
      : tokenizer_(tokenizer),
        config_(config),
        document_(parse_tokenizer_document(tokenizer.to_json(), kName)),
        root_{&document_.rest, kName} {}

  std::vector<GgufKey> build() {
    Steps steps;
    read_normalizer(root_["normalizer"], steps);
    read_pre_tokenizer(root_["pre_tokenizer"], steps);
    const bool byte_fallback = root_["model"]["byte_fallback"].flag(false);
    const bool bytes = steps.byte_level;
    if (bytes && (steps.marks || steps.prefix_mark))
      refuse_tokenizer("it is byte-level and writes spaces as marks");
    if (!bytes && (!steps.marks || !byte_fallback || !steps.regexes.empty() || steps.nfc))
      refuse_tokenizer("it is neither byte-level BPE nor sentencepiece with byte fallback");
    put("tokenizer.ggml.model", std::string(bytes ? "gpt2" : "llama"));
    put("tokenizer.ggml.pre",
        bytes ? pre_name(steps, root_["model"]["ignore_merges"].flag(false)) : "default");
    put_tokens(!bytes);
    if (bytes)
      put_merges();
    else
      put_scores();
    if (!bytes) put("tokenizer.ggml.add_space_prefix", steps.prefix_mark);
    put_special_ids();
    if (!tokenizer_.chat_template().empty())
      put("tokenizer.chat_template", tokenizer_.chat_template());
    return std::move(keys_);
  }

 private:
  void put(const char* key, GgufField value) { keys_.push_back({key, std::move(value)}); }

  int32_t find(std::string_view token) const {
    for (size_t i = 0; i < added_; ++i)
      if (root_["added_tokens"].item(i)["content"].text() == token)
        return int32_t(root_["added_tokens"].item(i)["id"].integer());
    return document_.pieces.find(token);
  }

  void put_tokens(bool scored) {
    const auto count = size_t(config_.vocab);
    if (tokenizer_.vocab_size() > config_.vocab)
      refuse_tokenizer(
          fmt::format("it has {} tokens, the model {}", tokenizer_.vocab_size(), config_.vocab));
    std::vector<std::string> tokens(count);
    std::vector<int32_t> types(count, int32_t(PieceType::unused));
    for (int64_t id = 0; id <= document_.pieces.highest_id(); ++id) {
      if (!document_.pieces.contains(id)) continue;
      tokens[size_t(id)] = document_.pieces.piece(id);
      const bool byte = scored && is_byte_piece(tokens[size_t(id)]);
      types[size_t(id)] = int32_t(byte ? PieceType::byte : PieceType::normal);
    }
    if (root_["added_tokens"].present()) added_ = root_["added_tokens"].list_size();
    for (size_t i = 0; i < added_; ++i) {
      const Field token = root_["added_tokens"].item(i);
      const auto id = size_t(token["id"].integer());
      tokens[id] = token["content"].text();
      types[id] =
          int32_t(token["special"].flag(false) ? PieceType::control : PieceType::user_defined);
    }
    const Field unknown = root_["model"]["unk_token"];
    if (scored && unknown.present())
      if (const int32_t id = find(unknown.text()); id >= 0)
        types[size_t(id)] = int32_t(PieceType::unknown);
    for (size_t id = 0; id < count; ++id)
      if (tokens[id].empty()) tokens[id] = fmt::format("[PAD{}]", id);
    put("tokenizer.ggml.tokens", std::move(tokens));
    types_ = types;
    put("tokenizer.ggml.token_type", std::move(types));
  }

  void put_merges() {
    std::vector<std::string> merges;
    for (size_t i = 0; i < document_.merges.size(); ++i)
      merges.push_back(std::string(document_.merges.left(i)) + " " +
                       std::string(document_.merges.right(i)));
    put("tokenizer.ggml.merges", std::move(merges));
  }

  // sentencepiece joins the pair whose piece has the best score: the earlier its first merge, the
  // better. What no merge yields comes last.
  void put_scores() {
    const float last = -float(document_.merges.size());
    std::vector<float> scores(size_t(config_.vocab), 0.0f);
    for (size_t id = 0; id < scores.size(); ++id)
      if (types_[id] == int32_t(PieceType::normal)) scores[id] = last;
    for (size_t i = document_.merges.size(); i-- > 0;)
      scores[size_t(document_.pieces.find(document_.merges.whole(i)))] = -float(i);
    put("tokenizer.ggml.scores", std::move(scores));
  }

  void put_special_ids() {
    // What the post-processor puts around a text must be one bos and one eos at most.
    const std::vector<int32_t> plain = tokenizer_.encode("a");
    std::vector<int32_t> whole = tokenizer_.encode_with_special("a");
    int32_t bos = tokenizer_.bos_id(), eos = tokenizer_.eos_id();
    bool before = false, after = false;
    if (whole != plain) {
      const auto text = std::search(whole.begin(), whole.end(), plain.begin(), plain.end());
      const auto in_front = text - whole.begin(),
                 behind = whole.end() - text - int64_t(plain.size());
      if (text == whole.end() || in_front > 1 || behind > 1)
        refuse_tokenizer("its post-processor adds more than one token on a side");
      before = in_front == 1;
      after = behind == 1;
      if (before) bos = whole.front();
      if (after) eos = whole.back();
    }
    if (eos < 0 && !config_.eos_ids.empty()) eos = int32_t(config_.eos_ids.front());
    if (bos < 0) bos = int32_t(config_.bos_id);
    const auto id = [&](const char* key, int64_t value) {
      if (value >= 0 && value < config_.vocab) put(key, uint32_t(value));
    };
    id("tokenizer.ggml.bos_token_id", bos);
    id("tokenizer.ggml.eos_token_id", eos);
    for (const int64_t other : config_.eos_ids)
      if (other != eos) {
        id("tokenizer.ggml.eot_token_id", other);
        break;
      }
    id("tokenizer.ggml.unknown_token_id", setting("unk_token"));
    int64_t padding = setting("pad_token");
    if (padding < 0) padding = config_.pad_id;
    id("tokenizer.ggml.padding_token_id", padding);
    put("tokenizer.ggml.add_bos_token", before);
    put("tokenizer.ggml.add_eos_token", after);
  }

  // The id of a token that tokenizer_config.json names, -1 if it names none.
  int32_t setting(const char* key) const {
    const std::string text = tokenizer_.config_json();
    if (text.empty()) return -1;
    const Json document = parse_json_object(text, "tokenizer_config.json");
    const Field field = Field{&document, "tokenizer_config.json"}[key];
    if (!field.present()) return -1;
    return find(field.value->is_object() ? field["content"].text() : field.text());
  }

  const Tokenizer& tokenizer_;
  const ModelConfig& config_;
  TokenizerDocument document_;
  Field root_;
  size_t added_ = 0;
  std::vector<int32_t> types_;
  std::vector<GgufKey> keys_;
};

}  // namespace

void warn_about_added_tokens(const Tokenizer& tokenizer) {
  const TokenizerDocument document = parse_tokenizer_document(tokenizer.to_json(), kName);
  const Field added = Field{&document.rest, kName}["added_tokens"];
  for (size_t i = 0; added.present() && i < added.list_size(); ++i)
    for (const char* flag : {"lstrip", "rstrip", "single_word"})
      if (added.item(i)[flag].flag(false))
        log::warn("gguf export: llama.cpp does not know {} of the added token '{}'", flag,
                  added.item(i)["content"].text());
}

std::vector<GgufKey> tokenizer_keys(const Tokenizer* tokenizer, const ModelConfig& config) {
  if (!tokenizer) return {{"tokenizer.ggml.model", std::string("none")}};
  return Keys(*tokenizer, config).build();
}

}  // namespace qat
