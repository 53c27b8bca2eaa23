// A model's tokenizer as files: in a run's model/ and in every export.
#pragma once

#include <map>
#include <string>

#include "models/tokenizer/tokenizer.h"

namespace qat {

/// File name -> text: tokenizer.json, tokenizer_config.json, and chat_template.jinja where the
/// template is not in the configuration. `chat_template` replaces the tokenizer's own unless empty.
std::map<std::string, std::string> tokenizer_files(const Tokenizer& tokenizer,
                                                   const std::string& chat_template);

}  // namespace qat
