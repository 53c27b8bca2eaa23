// Chat templates to a tree: the part of Jinja2 that chat templates use. Anything else is refused by
// name when the template is read, not when it runs.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/jinja_value.h"

namespace qat::jinja {

enum class Kind {
  // statements
  text,           ///< text
  output,         ///< [expression]
  branch,         ///< [condition, then, else]
  loop,           ///< names; [list, filter or null, body, else]
  assign,         ///< text = variable; [expression]
  assign_member,  ///< names = object, member; [expression]
  capture,        ///< text = variable; [body]
  generation,     ///< [body]: Hugging Face's mark around an assistant's answer
  leave_loop,
  next_round,
  block,  ///< statements
  // expressions
  constant,     ///< value
  name,         ///< text
  member,       ///< text; [object]
  item,         ///< [object, index]
  slice,        ///< [object, from, to, step], null where left out
  call,         ///< [callee, arguments...]; names[i] = keyword of argument i, or ""
  filter,       ///< text; [input, arguments...]; names as in call
  test,         ///< text; [input, arguments...]
  unary,        ///< text = not or -
  binary,       ///< text = operator
  conditional,  ///< [value, condition, otherwise or null]
  list,
  dict  ///< key, value, key, value, ...
};

struct Node {
  Kind kind;
  std::string text;
  Value value;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Node>> children;
};

/// Parses with trim_blocks and lstrip_blocks, as Hugging Face does. Returns a Kind::block.
std::unique_ptr<Node> parse(std::string_view source);

}  // namespace qat::jinja
