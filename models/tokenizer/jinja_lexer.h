// Cuts a template into text and tags, with Jinja2's rules for white space around tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qat::jinja {

struct Token {
  enum class Type { name, text, integer, symbol, end } type;
  std::string text;
  int64_t number = 0;
};

struct Part {
  enum class Type { text, output, statement } type;
  std::string text;           ///< of a text
  std::vector<Token> tokens;  ///< inside a tag, with an end token
  int line = 1;
};

std::vector<Part> cut_template(std::string_view source);

}  // namespace qat::jinja
