// Reading and writing what stands beside a tokenizer.
#include "models/tokenizer/settings.h"

#include <filesystem>
#include <vector>

#include "engine/core/error.h"
#include "models/tokenizer/json_fields.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

constexpr size_t kTemplateBytes = size_t(16) << 20;

// A token is written as its text or as an object with "content".
std::string token_text(const Field& field) {
  if (!field.present()) return {};
  return field.value->is_object() ? field["content"].text() : field.text();
}

// One template, or a list of named ones of which "default" is the one.
std::string template_text(const Field& field) {
  if (!field.present()) return {};
  if (field.value->is_string()) return field.text();
  for (size_t i = 0; i < field.list_size(); ++i)
    if (field.item(i)["name"].text() == "default") return field.item(i)["template"].text();
  return {};
}

// An id, or a list of them of which the first counts.
int32_t token_id(const Field& field) {
  if (!field.present()) return -1;
  if (field.value->is_array()) return field.list_size() == 0 ? -1 : token_id(field.item(0));
  const int64_t id = field.integer();
  return id < 0 || id > INT32_MAX ? -1 : int32_t(id);
}

}  // namespace

TokenizerSettings read_settings(const std::string& directory, const FindToken& find) {
  namespace fs = std::filesystem;
  TokenizerSettings settings;
  std::string bos, eos;
  const auto path = [&](const char* name) { return (fs::path(directory) / name).string(); };
  const auto exists = [&](const char* name) {
    std::error_code error;
    const bool there = fs::exists(path(name), error);
    if (error) refuse("{}: {}", path(name), error.message());
    return there;
  };
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (!exists(name)) continue;
    const std::string text = read_text_file(path(name), JsonLimits().bytes);
    const Json document = parse_json_object(text, path(name));
    const Field root{&document, path(name)};
    if (bos.empty()) bos = token_text(root["bos_token"]);
    if (eos.empty()) eos = token_text(root["eos_token"]);
    if (settings.config_json.empty() && std::string_view(name) == "tokenizer_config.json") {
      settings.config_json = text;
      settings.chat_template = template_text(root["chat_template"]);
    }
  }
  if (exists("chat_template.jinja")) {
    settings.chat_template = read_text_file(path("chat_template.jinja"), kTemplateBytes);
    check_utf8(settings.chat_template, path("chat_template.jinja"));
  } else if (exists("chat_template.json")) {
    const Json document = read_json_file(path("chat_template.json"));
    settings.chat_template =
        template_text(Field{&document, path("chat_template.json")}["chat_template"]);
  }
  if (!bos.empty()) settings.bos_id = find(bos);
  if (!eos.empty()) settings.eos_id = find(eos);
  for (const char* name : {"generation_config.json", "config.json"}) {
    if ((settings.bos_id >= 0 && settings.eos_id >= 0) || !exists(name)) continue;
    const Json document = read_json_file(path(name));
    const Field root{&document, path(name)};
    if (settings.bos_id < 0) settings.bos_id = token_id(root["bos_token_id"]);
    if (settings.eos_id < 0) settings.eos_id = token_id(root["eos_token_id"]);
  }
  return settings;
}

void check_utf8(std::string_view text, const std::string& where) {
  if (const size_t valid = unicode::valid_prefix(text); valid != text.size())
    refuse("{}: is not UTF-8 at byte {}", where, valid);
}

std::string write_config_json(const std::string& bos, const std::string& eos,
                              const std::string& unknown, const std::string& padding,
                              const std::string& chat_template) {
  nlohmann::ordered_json config;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!bos.empty()) config["bos_token"] = bos;
  if (!eos.empty()) config["eos_token"] = eos;
  if (!unknown.empty()) config["unk_token"] = unknown;
  if (!padding.empty()) config["pad_token"] = padding;
  config["clean_up_tokenization_spaces"] = false;
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  return config.dump(2) + "\n";
}

}  // namespace qat
