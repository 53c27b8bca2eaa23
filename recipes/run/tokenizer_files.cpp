#include "recipes/run/tokenizer_files.h"

#include "engine/io/json.h"

namespace qat {

std::map<std::string, std::string> tokenizer_files(const Tokenizer& tokenizer,
                                                   const std::string& chat_template) {
  std::map<std::string, std::string> files;
  files["tokenizer.json"] = tokenizer.to_json();
  auto config = nlohmann::ordered_json::parse(tokenizer.config_json());
  const std::string& text = chat_template.empty() ? tokenizer.chat_template() : chat_template;
  const bool in_config = config.contains("chat_template") && config["chat_template"] == text;
  if (!text.empty() && !in_config) {
    // Readers differ in which of the two places they look at.
    if (config.contains("chat_template")) config["chat_template"] = text;
    files["chat_template.jinja"] = text;
  }
  files["tokenizer_config.json"] = config.dump(2) + "\n";
  return files;
}

}  // namespace qat
