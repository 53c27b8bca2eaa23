// What stands beside a tokenizer: which tokens begin and end a text, the chat template, and the
// tokenizer_config.json that says so.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace qat {

struct TokenizerSettings {
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  std::string chat_template;
  std::string config_json;
};

/// The id of a token's text, -1 if it has none.
using FindToken = std::function<int32_t(std::string_view)>;

/// Reads tokenizer_config.json, special_tokens_map.json, chat_template.* and the token ids of
/// generation_config.json and config.json, as far as the directory has them. config_json stays
/// empty without a tokenizer_config.json.
TokenizerSettings read_settings(const std::string& directory, const FindToken& find);

/// Refuses a text that is not UTF-8, with `where` in front and the byte.
void check_utf8(std::string_view text, const std::string& where);

/// Writes tokenizer_config.json text. Empty strings are left out.
std::string write_config_json(const std::string& bos, const std::string& eos,
                              const std::string& unknown, const std::string& padding,
                              const std::string& chat_template);

}  // namespace qat
