// GGUF metadata (llama.cpp's tokenizer.ggml.* keys) to tokenizer.json, which is then read like any
// other, so that the exported file and our own ids cannot differ.
#include "models/tokenizer/gguf_vocabulary.h"

#include <unordered_map>
#include <utility>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "models/tokenizer/pre_tokenizer.h"
#include "models/tokenizer/unicode.h"
#include "models/tokenizer/vocabulary.h"

namespace qat {
namespace {

using OrderedJson = nlohmann::ordered_json;

// An ordered_json object finds keys by walking, so large ones are put together as text.
std::string json_string(std::string_view text) {
  return Json(text).dump();
}

struct Metadata {
  const GgufFile& file;
  std::string name;
  const std::vector<std::string>* tokens;
  std::vector<PieceType> types;
  int32_t bos, eos, unknown, padding;
};

int32_t read_id(const GgufFile& file, const char* key, size_t count) {
  const int64_t id = file.integer(key, -1);
  if (id < -1 || (id >= 0 && size_t(id) >= count))
    refuse("{}: {} is {}, but there are only {} tokens", file.path(), key, id, count);
  return int32_t(id);
}

Metadata read_metadata(const GgufFile& file) {
  Metadata data{file, file.path(), file.strings("tokenizer.ggml.tokens"), {}, -1, -1, -1, -1};
  if (data.tokens == nullptr || data.tokens->empty())
    refuse("{}: has no tokenizer.ggml.tokens, so no tokenizer to read", data.name);
  const size_t count = data.tokens->size();
  if (count > size_t(Vocabulary::kMaxId))
    refuse("{}: {} tokens are more than the {} that can be read", data.name, count,
           Vocabulary::kMaxId);
  const std::vector<int64_t>* types = file.integers("tokenizer.ggml.token_type");
  if (types != nullptr && types->size() != count)
    refuse("{}: tokenizer.ggml.token_type has {} entries for {} tokens", data.name, types->size(),
           count);
  for (size_t id = 0; id < count; ++id) {
    const int64_t type = types == nullptr ? 1 : (*types)[id];
    if (type < 0 || type > 6)
      refuse("{}: tokenizer.ggml.token_type[{}] is {}, expected 0 to 6", data.name, id, type);
    data.types.push_back(type == 0 ? PieceType::normal : PieceType(type));
  }
  data.bos = read_id(file, "tokenizer.ggml.bos_token_id", count);
  data.eos = read_id(file, "tokenizer.ggml.eos_token_id", count);
  data.unknown = read_id(file, "tokenizer.ggml.unknown_token_id", count);
  data.padding = read_id(file, "tokenizer.ggml.padding_token_id", count);
  return data;
}

// The post-processor that puts ids around a text, or null.
OrderedJson template_json(const Metadata& data, const std::vector<int32_t>& before,
                          const std::vector<int32_t>& after) {
  if (before.empty() && after.empty())
    return {{"type", "ByteLevel"},
            {"add_prefix_space", true},
            {"trim_offsets", false},
            {"use_regex", true}};
  OrderedJson single = OrderedJson::array(), specials = OrderedJson::object();
  const auto special = [&](int32_t id) {
    const std::string& text = (*data.tokens)[size_t(id)];
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
  };
  for (const int32_t id : before) special(id);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  for (const int32_t id : after) special(id);
  OrderedJson pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(specials)}};
}

// What tokenizer.ggml.pre names.
struct PreTokenization {
  std::string_view regex;      // empty: GPT-2's, inside ByteLevel
  bool digits = false;         // every digit by itself, before the expression
  bool ignore_merges = false;  // whole words of the vocabulary before merging
  bool nfc = false;
  bool bos_by_default = false;
};

PreTokenization find_pre_tokenization(const Metadata& data) {
  const std::string* pre = data.file.string("tokenizer.ggml.pre");
  PreTokenization found;
  if (pre == nullptr)
    refuse(
        "{}: has no tokenizer.ggml.pre, so its pre-tokenizer is unknown; convert the model again "
        "with a current llama.cpp",
        data.name);
  if (*pre == "gpt-2") return found;
  if (*pre == "smollm" || *pre == "starcoder" || *pre == "refact") {
    found.digits = true;
    return found;
  }
  if (*pre == "llama-bpe" || *pre == "llama3" || *pre == "llama-v3") {
    found.regex = kLlama3Regex;
    found.ignore_merges = found.bos_by_default = true;
    return found;
  }
  if (*pre == "qwen2") {
    found.regex = kQwen2Regex;
    found.nfc = true;
    return found;
  }
  refuse(
      "{}: the pre-tokenizer '{}' (tokenizer.ggml.pre) cannot be followed exactly here; "
      "supported: gpt-2, smollm, starcoder, refact, llama-bpe, qwen2",
      data.name, *pre);
}

OrderedJson pre_tokenizer_json(const PreTokenization& pre, bool prefix_space) {
  const OrderedJson byte_level = {{"type", "ByteLevel"},
                                  {"add_prefix_space", prefix_space},
                                  {"trim_offsets", true},
                                  {"use_regex", pre.regex.empty()}};
  if (pre.regex.empty() && !pre.digits) return byte_level;
  OrderedJson steps = OrderedJson::array();
  if (pre.digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (!pre.regex.empty())
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pre.regex}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  steps.push_back(byte_level);
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

std::string byte_level_json(const Metadata& data, const std::vector<int32_t>& before,
                            const std::vector<int32_t>& after, const PreTokenization& pre) {
  const std::vector<std::string>* merges = data.file.strings("tokenizer.ggml.merges");
  if (merges == nullptr) refuse("{}: has no tokenizer.ggml.merges", data.name);
  OrderedJson added = OrderedJson::array();
  std::string vocab, merge_list;
  for (size_t id = 0; id < data.tokens->size(); ++id) {
    const std::string& token = (*data.tokens)[id];
    if (unicode::valid_prefix(token) != token.size())
      refuse("{}: tokenizer.ggml.tokens[{}] is not UTF-8", data.name, id);
    vocab += fmt::format("{}{}:{}", id == 0 ? "" : ",", json_string(token), id);
    const PieceType type = data.types[id];
    if (type == PieceType::control || type == PieceType::unknown || type == PieceType::user_defined)
      added.push_back({{"id", id},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type != PieceType::user_defined}});
  }
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::string& merge = (*merges)[i];
    const size_t space = merge.find(' ', 1);  // a piece may itself begin with a space
    if (unicode::valid_prefix(merge) != merge.size() || space == std::string::npos)
      refuse("{}: tokenizer.ggml.merges[{}] is not two pieces with a space between them", data.name,
             i);
    merge_list += fmt::format("{}[{},{}]", i == 0 ? "" : ",", json_string(merge.substr(0, space)),
                              json_string(merge.substr(space + 1)));
  }
  const bool prefix_space = data.file.flag("tokenizer.ggml.add_space_prefix", false);
  OrderedJson byte_level_decoder = {{"type", "ByteLevel"},
                                    {"add_prefix_space", true},
                                    {"trim_offsets", true},
                                    {"use_regex", true}};
  return "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":" +
         added.dump() + ",\"normalizer\":" + (pre.nfc ? "{\"type\":\"NFC\"}" : "null") +
         ",\"pre_tokenizer\":" + pre_tokenizer_json(pre, prefix_space).dump() +
         ",\"post_processor\":" + template_json(data, before, after).dump() +
         ",\"decoder\":" + byte_level_decoder.dump() +
         ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
         "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
         "\"byte_fallback\":false,\"ignore_merges\":" +
         (pre.ignore_merges ? "true" : "false") + ",\"vocab\":{" + vocab + "},\"merges\":[" +
         merge_list + "]}}";
}

std::string scored_json(const Metadata& data, const std::vector<int32_t>& before,
                        const std::vector<int32_t>& after) {
  const std::vector<double>* scores = data.file.numbers("tokenizer.ggml.scores");
  if (scores == nullptr || scores->size() != data.tokens->size())
    refuse("{}: tokenizer.ggml.scores has {} entries for {} tokens", data.name,
           scores == nullptr ? 0 : scores->size(), data.tokens->size());
  ScoredVocabulary vocabulary;
  vocabulary.pieces = *data.tokens;
  vocabulary.scores = *scores;
  vocabulary.types = data.types;
  vocabulary.adds_space_prefix = data.file.flag("tokenizer.ggml.add_space_prefix", true);
  vocabulary.before = before;
  vocabulary.after = after;
  return scored_vocabulary_json(vocabulary, data.name);
}

}  // namespace

GgufTokenizer read_gguf_tokenizer(const GgufFile& file) {
  const std::string* model = file.string("tokenizer.ggml.model");
  if (model == nullptr) refuse("{}: has no tokenizer (tokenizer.ggml.model)", file.path());
  if (*model != "gpt2" && *model != "llama")
    refuse(
        "{}: the tokenizer kind '{}' (tokenizer.ggml.model) cannot be followed exactly here; "
        "supported: gpt2, llama",
        file.path(), *model);
  const Metadata data = read_metadata(file);
  const bool scored = *model == "llama";
  const PreTokenization pre = scored ? PreTokenization() : find_pre_tokenization(data);
  std::vector<int32_t> before, after;
  if (data.bos >= 0 && file.flag("tokenizer.ggml.add_bos_token", scored || pre.bos_by_default))
    before.push_back(data.bos);
  if (data.eos >= 0 && file.flag("tokenizer.ggml.add_eos_token", false)) after.push_back(data.eos);

  GgufTokenizer result;
  result.json =
      scored ? scored_json(data, before, after) : byte_level_json(data, before, after, pre);
  const auto text = [&](int32_t id) { return id < 0 ? "" : (*data.tokens)[size_t(id)]; };
  const std::string* chat = file.string("tokenizer.chat_template");
  result.settings.bos_id = data.bos;
  result.settings.eos_id = data.eos;
  if (chat != nullptr) {
    check_utf8(*chat, data.name + ": tokenizer.chat_template");
    result.settings.chat_template = *chat;
  }
  result.settings.config_json =
      write_config_json(text(data.bos), text(data.eos), text(data.unknown), text(data.padding),
                        result.settings.chat_template);
  return result;
}

}  // namespace qat
