// Value.
#include "models/tokenizer/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace qat::jinja {
namespace {

constexpr int kDeepest = 64;

// A number for comparisons; Python's True is 1.
bool as_number(const Value& value, double& number) {
  if (value.boolean() != nullptr)
    number = *value.boolean() ? 1 : 0;
  else if (value.integer() != nullptr)
    number = double(*value.integer());
  else if (value.real() != nullptr)
    number = *value.real();
  else
    return false;
  return true;
}

// json.dumps escapes quotes, backslashes and control characters, nothing else.
void append_quoted(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += fmt::format("\\u{:04x}", int(c));
        else
          out += c;
    }
  }
  out += '"';
}

void append_json(std::string& out, const Value& value, int indent, int depth) {
  if (depth > kDeepest) refuse("chat template: tojson of a value nested deeper than {}", kDeepest);
  if (out.size() > kMostMade) refuse("chat template: makes more than {} bytes", kMostMade);
  const auto line = [&](int level) {
    if (indent >= 0) out.append("\n").append(size_t(indent) * size_t(level), ' ');
  };
  const char* const comma = indent >= 0 ? "," : ", ";
  if (value.is_none()) {
    out += "null";
  } else if (value.boolean() != nullptr) {
    out += *value.boolean() ? "true" : "false";
  } else if (value.integer() != nullptr) {
    out += std::to_string(*value.integer());
  } else if (value.text() != nullptr) {
    append_quoted(out, *value.text());
  } else if (value.list() != nullptr) {
    out += '[';
    bool first = true;
    for (const Value& item : *value.list()) {
      if (!first) out += comma;
      first = false;
      line(depth + 1);
      append_json(out, item, indent, depth + 1);
    }
    if (!first) line(depth);
    out += ']';
  } else if (value.dict() != nullptr) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : *value.dict()) {
      if (!first) out += comma;
      first = false;
      line(depth + 1);
      append_quoted(out, key);
      out += ": ";
      append_json(out, item, indent, depth + 1);
    }
    if (!first) line(depth);
    out += '}';
  } else {
    refuse("chat template: tojson of a value of type {}", value.type_name());
  }
}

// depth bounds what a namespace that grows while it is inside another value may cost.
bool equal_within(const Value& a, const Value& b, int depth) {
  if (depth == 0) refuse("chat template: compares values nested deeper than {}", kDeepest);
  double left = 0, right = 0;
  if (as_number(a, left) && as_number(b, right)) return left == right;
  if (a.text() != nullptr && b.text() != nullptr) return *a.text() == *b.text();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.list() != nullptr && b.list() != nullptr) {
    if (a.list()->size() != b.list()->size()) return false;
    for (size_t i = 0; i < a.list()->size(); ++i)
      if (!equal_within((*a.list())[i], (*b.list())[i], depth - 1)) return false;
    return true;
  }
  if (a.dict() != nullptr && b.dict() != nullptr) {
    if (a.dict()->size() != b.dict()->size()) return false;
    for (const auto& [key, value] : *a.dict()) {
      const Value* other = b.find(key);
      if (other == nullptr || !equal_within(value, *other, depth - 1)) return false;
    }
    return true;
  }
  return false;
}

}  // namespace

void Value::add_below(const Value& item) {
  if (item.depth_ >= kDeepest)
    refuse("chat template: lists and dicts nested deeper than {}", kDeepest);
  depth_ = std::max(depth_, uint8_t(item.depth_ + 1));
  if (item.holds_namespace()) namespace_ = Namespace::inside;
}

Value::Value(List list) : data_(std::make_shared<List>(std::move(list))), depth_(1) {
  for (const Value& item : *this->list()) add_below(item);
}

Value::Value(Dict dict) : data_(std::make_shared<Dict>(std::move(dict))), depth_(1) {
  for (const auto& [key, item] : *this->dict()) add_below(item);
}

Value Value::make_namespace(Dict dict) {
  Value made{std::move(dict)};
  if (made.holds_namespace()) refuse("chat template: a namespace inside a namespace");
  made.namespace_ = Namespace::itself;
  return made;
}

const Value* Value::find(std::string_view key) const {
  if (dict() == nullptr) return nullptr;
  for (const auto& [name, value] : *dict())
    if (name == key) return &value;
  return nullptr;
}

bool Value::is_true() const {
  if (boolean() != nullptr) return *boolean();
  if (integer() != nullptr) return *integer() != 0;
  if (real() != nullptr) return *real() != 0;
  if (text() != nullptr) return !text()->empty();
  if (list() != nullptr) return !list()->empty();
  if (dict() != nullptr) return !dict()->empty();
  return false;
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {"undefined", "NoneType", "bool", "int",
                                           "float",     "str",      "list", "dict"};
  return kNames[data_.index()];
}

bool equal(const Value& a, const Value& b) {
  return equal_within(a, b, kDeepest);
}

std::string to_text(const Value& value) {
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.boolean() != nullptr) return *value.boolean() ? "True" : "False";
  if (value.integer() != nullptr) return std::to_string(*value.integer());
  if (value.text() != nullptr) return *value.text();
  refuse("chat template: prints a value of type {}, which cannot be done exactly here",
         value.type_name());
}

std::string to_json_text(const Value& value, int indent) {
  std::string out;
  append_json(out, value, indent, 0);
  return out;
}

}  // namespace qat::jinja
