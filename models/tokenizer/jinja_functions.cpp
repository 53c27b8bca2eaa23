// Methods, filters and tests: what Python and jinja2 do, for the types that chat templates use.
#include <algorithm>
#include <utility>

#include "engine/core/error.h"
#include "models/tokenizer/jinja_render.h"
#include "models/tokenizer/unicode.h"

namespace qat::jinja {
namespace {

[[noreturn]] void unsupported(const std::string& what, const Value& value) {
  refuse("chat template: {} of a value of type {} is not supported", what, value.type_name());
}

bool is_space(uint32_t code) {
  return (code >= 0x1C && code <= 0x1F) || (unicode::classes()[code] & unicode::kSpace) != 0;
}

// str.strip(): white space as Python's str.isspace sees it, or the given characters.
std::string strip(const std::string& text, const List& arguments, bool left, bool right) {
  const bool chosen = !arguments.empty() && !arguments[0].is_none();
  if (chosen && arguments[0].text() == nullptr) unsupported("strip", arguments[0]);
  const auto strips = [&](const char* at, size_t bytes) {
    if (chosen) return arguments[0].text()->find(std::string(at, bytes)) != std::string::npos;
    return is_space(unicode::decode(at).code);
  };
  const char *begin = text.data(), *end = begin + text.size();
  while (left && begin < end && strips(begin, unicode::length_from_first_byte(*begin)))
    begin += unicode::length_from_first_byte(*begin);
  while (right && begin < end) {
    const char* last = unicode::previous(begin, end);
    if (!strips(last, size_t(end - last))) break;
    end = last;
  }
  return {begin, end};
}

// Before a small input becomes a large output.
void check_size(size_t bytes) {
  if (bytes > kMostMade) refuse("chat template: makes more than {} bytes", kMostMade);
}

std::string replace(const std::string& text, const std::string& from, const std::string& to,
                    int64_t most) {
  if (from.empty()) refuse("chat template: replace of an empty text is not supported");
  std::string out;
  size_t begin = 0;
  for (size_t at = text.find(from); at != std::string::npos && most != 0;
       at = text.find(from, begin), --most) {
    out.append(text, begin, at - begin).append(to);
    check_size(out.size());
    begin = at + from.size();
  }
  return out.append(text, begin);
}

// Only ASCII: other letters may change their length or depend on the language.
std::string change_case(std::string text, bool upper) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) >= 0x80)
      refuse("chat template: upper and lower are supported for ASCII text only");
    if (upper && c >= 'a' && c <= 'z') c = char(c - 32);
    if (!upper && c >= 'A' && c <= 'Z') c = char(c + 32);
  }
  return text;
}

std::string capitalize(const std::string& text) {
  std::string out = change_case(text, false);
  if (!out.empty()) out.replace(0, 1, change_case(out.substr(0, 1), true));
  return out;
}

const std::string& text_argument(const List& arguments, size_t index, const std::string& method) {
  if (index >= arguments.size() || arguments[index].text() == nullptr)
    refuse("chat template: {} needs a text as argument {}", method, index + 1);
  return *arguments[index].text();
}

List split(const std::string& text, const List& arguments) {
  List parts;
  int64_t most =
      arguments.size() > 1 && arguments[1].integer() != nullptr ? *arguments[1].integer() : -1;
  if (arguments.empty() || arguments[0].is_none()) {
    if (most >= 0) refuse("chat template: split at white space with a limit is not supported");
    std::string part;
    const auto end_part = [&] {
      if (!part.empty()) parts.emplace_back(std::exchange(part, {}));
      check_size(parts.size() * sizeof(Value));
    };
    for (size_t at = 0; at < text.size();) {
      const size_t bytes = unicode::length_from_first_byte(text[at]);
      if (is_space(unicode::decode(text.data() + at).code))
        end_part();
      else
        part.append(text, at, bytes);
      at += bytes;
    }
    end_part();
    return parts;
  }
  const std::string& separator = text_argument(arguments, 0, "split");
  if (separator.empty()) refuse("chat template: split at an empty text");
  size_t from = 0;
  for (size_t at = text.find(separator); at != std::string::npos && most != 0;
       at = text.find(separator, from), --most) {
    parts.emplace_back(text.substr(from, at - from));
    check_size(parts.size() * sizeof(Value));
    from = at + separator.size();
  }
  parts.emplace_back(text.substr(from));
  return parts;
}

bool affix(const std::string& text, const List& arguments, bool start) {
  List choices = arguments;
  if (arguments.size() == 1 && arguments[0].list() != nullptr) choices = *arguments[0].list();
  if (choices.empty() || arguments.size() > 1)
    refuse("chat template: startswith and endswith are supported with one argument");
  return std::any_of(choices.begin(), choices.end(), [&](const Value& choice) {
    if (choice.text() == nullptr) unsupported("startswith", choice);
    return start ? text.starts_with(*choice.text()) : text.ends_with(*choice.text());
  });
}

int64_t characters_in(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) at += unicode::length_from_first_byte(text[at]);
  return count;
}

Value text_method(const std::string& text, const std::string& name, const List& arguments) {
  if (name == "strip") return strip(text, arguments, true, true);
  if (name == "lstrip") return strip(text, arguments, true, false);
  if (name == "rstrip") return strip(text, arguments, false, true);
  if (name == "startswith") return affix(text, arguments, true);
  if (name == "endswith") return affix(text, arguments, false);
  if (name == "split") return split(text, arguments);
  if (name == "upper") return change_case(text, true);
  if (name == "lower") return change_case(text, false);
  if (name == "capitalize") return capitalize(text);
  if (name == "replace")
    return replace(text, text_argument(arguments, 0, name), text_argument(arguments, 1, name),
                   arguments.size() > 2 && arguments[2].integer() ? *arguments[2].integer() : -1);
  if (name == "find") {
    // Python counts characters.
    const size_t at = text.find(text_argument(arguments, 0, name));
    if (at == std::string::npos) return int64_t(-1);
    return characters_in(std::string_view(text).substr(0, at));
  }
  refuse("chat template: the method '{}' of a text is not supported", name);
}

Value dict_method(const Value& object, const std::string& name, const List& arguments) {
  List out;
  if (name == "get") {
    const Value* found = object.find(text_argument(arguments, 0, name));
    if (found != nullptr) return *found;
    return arguments.size() > 1 ? arguments[1] : Value(None{});
  }
  for (const auto& [key, value] : *object.dict()) {
    if (name == "keys")
      out.emplace_back(key);
    else if (name == "values")
      out.push_back(value);
    else
      out.emplace_back(List{Value(key), value});
  }
  if (name != "keys" && name != "values" && name != "items")
    refuse("chat template: the method '{}' of a dict is not supported", name);
  return out;
}

// selectattr and rejectattr: by truth of the attribute, or by a test on it.
List select(const Value& input, const List& arguments, bool wanted) {
  const std::string& attribute = text_argument(arguments, 0, "selectattr");
  List out;
  for (const Value& item : elements(input)) {
    const Value value = member(item, attribute);
    bool chosen = value.is_true();
    if (arguments.size() > 1)
      chosen = apply_test(text_argument(arguments, 1, "selectattr"), value,
                          List(arguments.begin() + 2, arguments.end()));
    if (chosen == wanted) out.push_back(item);
  }
  return out;
}

Value length(const Value& input) {
  if (input.dict() != nullptr) return int64_t(input.dict()->size());
  if (input.text() != nullptr) return characters_in(*input.text());
  return int64_t(elements(input).size());
}

Value join(const Value& input, const List& arguments, const Dict& keywords) {
  if (!keywords.empty()) refuse("chat template: join with an attribute is not supported");
  const std::string separator = arguments.empty() ? "" : text_argument(arguments, 0, "join");
  std::string out;
  bool first = true;
  for (const Value& item : elements(input)) {
    if (!first) out += separator;
    first = false;
    out += to_text(item);
    check_size(out.size());
  }
  return out;
}

}  // namespace

List elements(const Value& value) {
  if (value.list() != nullptr) return *value.list();
  List out;
  if (value.is_undefined()) return out;
  if (value.dict() != nullptr) {
    for (const auto& [key, item] : *value.dict()) out.emplace_back(key);
    return out;
  }
  if (value.text() == nullptr) unsupported("looping over or counting", value);
  check_size(value.text()->size() * sizeof(Value));
  for (size_t at = 0; at < value.text()->size();) {
    const size_t bytes = unicode::length_from_first_byte((*value.text())[at]);
    out.emplace_back(value.text()->substr(at, bytes));
    at += bytes;
  }
  return out;
}

bool is_in(const Value& needle, const Value& haystack) {
  if (haystack.text() != nullptr) {
    if (needle.text() == nullptr) unsupported("'in' a text", needle);
    return haystack.text()->find(*needle.text()) != std::string::npos;
  }
  const List items = elements(haystack);
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& item) { return equal(item, needle); });
}

Value member(const Value& object, const std::string& name) {
  if (object.is_undefined())
    refuse("chat template: '{}' is undefined (looked for its '{}')", object.undefined_name(), name);
  const Value* found = object.find(name);
  return found == nullptr ? Value(Undefined{name}) : *found;
}

Value call_method(const Value& object, const std::string& name, const List& arguments) {
  if (object.text() != nullptr) return text_method(*object.text(), name, arguments);
  if (object.dict() != nullptr) return dict_method(object, name, arguments);
  if (object.list() != nullptr && name == "append" && arguments.size() == 1) {
    // Hugging Face runs templates in a sandbox where lists cannot be changed.
    refuse("chat template: changing a list is not allowed");
  }
  refuse("chat template: the method '{}' of a value of type {} is not supported", name,
         object.type_name());
}

Value apply_filter(const std::string& name, const Value& input, const List& arguments,
                   const Dict& keywords) {
  const auto text = [&] { return to_text(input); };
  if (!keywords.empty() && name != "tojson" && name != "map" && name != "join" &&
      name != "default" && name != "d")
    refuse("chat template: keyword arguments of the filter '{}' are not supported", name);
  if (name == "trim") return strip(text(), arguments, true, true);
  if (name == "length" || name == "count") return length(input);
  if (name == "string" || name == "safe") return text();
  if (name == "upper") return change_case(text(), true);
  if (name == "lower") return change_case(text(), false);
  if (name == "capitalize") return capitalize(text());
  if (name == "replace")
    return replace(text(), text_argument(arguments, 0, name), text_argument(arguments, 1, name),
                   -1);
  if (name == "list") return elements(input);
  if (name == "join") return join(input, arguments, keywords);
  if (name == "first" || name == "last") {
    const List items = elements(input);
    if (items.empty()) return Undefined{name};
    return name == "first" ? items.front() : items.back();
  }
  if (name == "default" || name == "d") {
    bool by_truth = arguments.size() > 1 && arguments[1].is_true();
    for (const auto& [key, value] : keywords) {
      if (key != "boolean") refuse("chat template: unknown argument '{}' of default", key);
      by_truth = value.is_true();
    }
    const bool missing = input.is_undefined() || (by_truth && !input.is_true());
    return missing ? (arguments.empty() ? Value("") : arguments[0]) : input;
  }
  if (name == "items") {
    if (input.is_undefined()) return List();
    if (input.dict() == nullptr) unsupported("items", input);
    return dict_method(input, "items", {});
  }
  if (name == "selectattr") return select(input, arguments, true);
  if (name == "rejectattr") return select(input, arguments, false);
  if (name == "map") {
    List out;
    if (keywords.size() != 1 || keywords[0].first != "attribute" || !keywords[0].second.text() ||
        !arguments.empty())
      refuse("chat template: map is supported with attribute='name' only");
    for (const Value& item : elements(input))
      out.push_back(member(item, *keywords[0].second.text()));
    return out;
  }
  if (name == "reverse") {
    List items = elements(input);
    std::reverse(items.begin(), items.end());
    if (input.text() != nullptr) return join(Value(std::move(items)), {}, {});
    return items;
  }
  if (name == "int") {
    if (input.integer() != nullptr) return input;
    if (input.boolean() != nullptr) return int64_t(*input.boolean());
    unsupported("int", input);
  }
  if (name == "tojson") {
    int indent = -1;
    for (const auto& [key, value] : keywords) {
      if (key == "ensure_ascii" && !value.is_true()) continue;
      if (key != "indent" || value.integer() == nullptr || *value.integer() > 16)
        refuse("chat template: the argument '{}' of tojson is not supported", key);
      indent = int(*value.integer());
    }
    return to_json_text(input, indent);
  }
  refuse("chat template: the filter '{}' is not supported", name);
}

bool apply_test(const std::string& name, const Value& input, const List& arguments) {
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "string") return input.text() != nullptr;
  if (name == "mapping") return input.dict() != nullptr;
  if (name == "iterable" || name == "sequence")
    return input.list() != nullptr || input.dict() != nullptr || input.text() != nullptr ||
           input.is_undefined();
  if (name == "number")
    return input.integer() != nullptr || input.real() != nullptr || input.boolean() != nullptr;
  if (name == "integer") return input.integer() != nullptr;
  if (name == "boolean") return input.boolean() != nullptr;
  if (name == "true") return input.boolean() != nullptr && *input.boolean();
  if (name == "false") return input.boolean() != nullptr && !*input.boolean();
  if (name == "equalto" || name == "eq" || name == "==") {
    if (arguments.size() != 1) refuse("chat template: the test '{}' needs one argument", name);
    return equal(input, arguments[0]);
  }
  if (name == "in") {
    if (arguments.size() != 1) refuse("chat template: the test '{}' needs one argument", name);
    return is_in(input, arguments[0]);
  }
  if (name == "odd" || name == "even") {
    if (input.integer() == nullptr) unsupported(name, input);
    return (*input.integer() % 2 != 0) == (name == "odd");
  }
  refuse("chat template: the test '{}' is not supported", name);
}

}  // namespace qat::jinja
