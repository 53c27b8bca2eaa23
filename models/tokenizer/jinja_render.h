// Running a parsed chat template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "models/tokenizer/jinja_parser.h"
#include "models/tokenizer/jinja_value.h"

namespace qat::jinja {

struct Rendered {
  std::string text;
  /// Byte ranges that came out of {% generation %} blocks.
  std::vector<std::pair<size_t, size_t>> generated;
};

/// variables: the names the template may use. Refuses with the template's own message when it calls
/// raise_exception, and by name whatever cannot be done exactly.
Rendered render(const Node& tree, const Dict& variables);

/// A method or filter on a text or list ("strip", "startswith", ...). Only for the interpreter.
Value call_method(const Value& object, const std::string& name, const List& arguments);
Value apply_filter(const std::string& name, const Value& input, const List& arguments,
                   const Dict& keywords);
bool apply_test(const std::string& name, const Value& input, const List& arguments);

/// The elements that a loop over the value sees. Refuses what cannot be looped over.
List elements(const Value& value);
bool is_in(const Value& needle, const Value& haystack);
/// object.name or object['name'] on dicts.
Value member(const Value& object, const std::string& name);

}  // namespace qat::jinja
