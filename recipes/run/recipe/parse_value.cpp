#include "recipes/run/recipe/parse_value.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "engine/core/error.h"
#include "recipes/run/recipe/suggest.h"

namespace qat::recipe {
namespace {

[[noreturn]] void refuse_value(const Field& field, const YamlNode& node,
                               const std::string& advice) {
  refuse("{}: expected {}, got {}; {}", located(node.where, field.key), expectation(field),
         shown(node), advice);
}

bool all_digits(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return std::isdigit(c) != 0; });
}

std::string without_sign(const std::string& text) {
  return text.starts_with('+') || text.starts_with('-') ? text.substr(1) : text;
}

/// 010 is eight to some readers of YAML and ten to others.
bool leading_zero(const std::string& text) {
  return text.size() > 1 && text[0] == '0' && std::isdigit(static_cast<unsigned char>(text[1]));
}

template <class T>
std::optional<T> converted(const std::string& text) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  T value{};
  const auto result = std::from_chars(begin, end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

/// Digits, at most one point, an exponent: what 1e-4 and .5 are, but .nan, .inf and 0x10 are not.
bool decimal(const std::string& text) {
  size_t at = text.starts_with('+') || text.starts_with('-') ? 1 : 0;
  size_t digits = 0;
  const auto skip_digits = [&] {
    const size_t before = at;
    while (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) ++at;
    return at - before;
  };
  digits = skip_digits();
  if (at < text.size() && text[at] == '.') {
    ++at;
    digits += skip_digits();
  }
  if (digits == 0) return false;
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    if (skip_digits() == 0) return false;
  }
  return at == text.size();
}

std::string number_advice(const Field& field, const YamlNode& node) {
  const std::string body = without_sign(node.text);
  if (node.kind == YamlNode::Kind::quoted && decimal(node.text)) return "remove the quotes";
  if (body.starts_with("0x") || body.starts_with("0o") || body.starts_with("0b"))
    return "write it in decimal";
  if (leading_zero(body)) return "remove the leading zero";
  if (field.kind == FieldKind::whole && decimal(node.text))
    return "write it without a point or an exponent";
  return "it means: " + field.help;
}

bool in_range(const Field& field, double value) {
  return value >= field.low && value <= field.high && !(field.low_excluded && value == field.low);
}

int64_t parse_whole(const Field& field, const YamlNode& node) {
  const std::string body = without_sign(node.text);
  if (node.kind != YamlNode::Kind::plain || !all_digits(body) || leading_zero(body))
    refuse_value(field, node, number_advice(field, node));
  const auto value = converted<int64_t>(node.text);
  const auto& choices = field.choices;
  if (!value || !in_range(field, double(*value)) ||
      (!choices.empty() && std::find(choices.begin(), choices.end(), *value) == choices.end()))
    refuse_value(field, node, "it means: " + field.help);
  return *value;
}

double parse_number(const Field& field, const YamlNode& node) {
  if (node.kind != YamlNode::Kind::plain || !decimal(node.text) ||
      leading_zero(without_sign(node.text)))
    refuse_value(field, node, number_advice(field, node));
  const auto value = converted<double>(node.text);
  if (!value || !std::isfinite(*value) || !in_range(field, *value))
    refuse_value(field, node, "it means: " + field.help);
  return *value == 0 ? 0.0 : *value;  // -0.0 would print, and hash, as another value
}

bool parse_toggle(const Field& field, const YamlNode& node) {
  const std::string& text = node.text;
  if (node.kind == YamlNode::Kind::plain) {
    if (text == "true" || text == "on") return true;
    if (text == "false" || text == "off") return false;
  }
  std::string lower;
  for (const char c : text) lower += char(std::tolower(static_cast<unsigned char>(c)));
  const bool yes =
      lower == "yes" || lower == "y" || lower == "true" || lower == "on" || text == "1";
  const bool no =
      lower == "no" || lower == "n" || lower == "false" || lower == "off" || text == "0";
  refuse_value(field, node, yes ? "write true" : no ? "write false" : "it means: " + field.help);
}

/// Expands ~, $NAME, ${NAME} and $$.
std::string parse_path(const Field& field, const YamlNode& node) {
  const std::string& text = node.text;
  std::string out;
  const auto append_variable = [&](const std::string& name) {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr || *value == '\0')
      refuse(
          "{}: expected the environment variable {} to be set, got nothing; set it, or write "
          "the path out",
          located(node.where, field.key), name);
    out += value;
  };
  const auto name_byte = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  size_t at = 0;
  if (text.starts_with('~')) {
    if (text.size() > 1 && text[1] != '/')
      refuse_value(field, node, "only ~/ is expanded; write the path out, or ./~ for such a name");
    append_variable("HOME");
    at = 1;
  }
  while (at < text.size()) {
    if (text[at] != '$') {
      out += text[at++];
      continue;
    }
    const bool braced = text.compare(at, 2, "${") == 0;
    size_t end = at + (braced ? 2 : 1);
    const size_t begin = end;
    while (end < text.size() && name_byte(text[end])) ++end;
    if (!braced && text.compare(at, 2, "$$") == 0) {
      out += '$';
      at += 2;
      continue;
    }
    if (end == begin || (braced && (end == text.size() || text[end] != '}')))
      refuse_value(field, node, "write $NAME or ${NAME} for a variable, $$ for a dollar sign");
    append_variable(text.substr(begin, end - begin));
    at = end + (braced ? 1 : 0);
  }
  if (std::any_of(out.begin(), out.end(), [](unsigned char c) { return c < ' ' || c == 0x7F; }))
    refuse_value(field, node, "remove the control character");
  return out;
}

std::string parse_layer_range(const Field& field, const YamlNode& node) {
  const size_t dash = node.text.find('-');
  const std::string first = node.text.substr(0, dash);
  const std::string last = dash == std::string::npos ? first : node.text.substr(dash + 1);
  constexpr size_t kDigits = 5;
  if (!all_digits(first) || !all_digits(last) || first.size() > kDigits || last.size() > kDigits)
    refuse_value(field, node, "write a layer such as 3, or the first and last one such as 0-5");
  const int64_t low = *converted<int64_t>(first), high = *converted<int64_t>(last);
  if (low > high) refuse_value(field, node, "write the lower layer first");
  return low == high ? fmt::format("{}", low) : fmt::format("{}-{}", low, high);
}

/// The last = parts the two: a pattern is any text.
std::string parse_width(const Field& field, const YamlNode& node) {
  const size_t equals = node.text.rfind('=');
  if (equals == std::string::npos || equals == 0)
    refuse_value(field, node, "write matrices and their bits, such as down_proj=8");
  const std::string bits = node.text.substr(equals + 1);
  const bool digit = bits.size() == 1 && bits[0] >= '2' && bits[0] <= '8';
  if (!digit && bits != "none")
    refuse_value(field, node, "write bits from 2 to 8, or none to leave the matrices as they are");
  return node.text;
}

FieldValue parse_scalar(const Field& field, const YamlNode& node) {
  if (!node.scalar()) {
    refuse_value(field, node,
                 node.kind == YamlNode::Kind::empty ? "write a value, or remove the key"
                                                    : "it means: " + field.help);
  }
  for (const auto* words : {&field.words, &field.other_words})
    if (std::find(words->begin(), words->end(), node.text) != words->end()) return node.text;
  switch (field.kind) {
    case FieldKind::word: {
      const std::string near = nearest_word(node.text, field.words);
      refuse_value(
          field, node,
          near.empty() ? "it means: " + field.help : fmt::format("did you mean {}?", near));
    }
    case FieldKind::toggle:
      return parse_toggle(field, node);
    case FieldKind::whole:
      return parse_whole(field, node);
    case FieldKind::number:
      return parse_number(field, node);
    case FieldKind::text:
    case FieldKind::path:
      if (node.text.empty() && field.blank == Blank::refused)
        refuse_value(field, node, "write a value, or remove the key");
      return field.kind == FieldKind::path ? parse_path(field, node) : node.text;
    case FieldKind::layer_range:
      return parse_layer_range(field, node);
    case FieldKind::width:
      return parse_width(field, node);
    case FieldKind::key:
      if (!find_field(node.text) && !find_section(node.text))
        refuse_value(field, node, key_advice("", node.text));
      return node.text;
  }
  internal_error("the field table has an unknown kind for {}", field.key);
}

}  // namespace

FieldValue parse_value(const Field& field, const YamlNode& node) {
  if (field.arity == Arity::one) return parse_scalar(field, node);
  std::vector<std::string> out;
  const bool listed = node.kind == YamlNode::Kind::list;
  const std::vector<YamlNode> single = listed ? std::vector<YamlNode>{} : std::vector{node};
  for (const auto& item : listed ? node.items : single) {
    const FieldValue value = parse_scalar(field, item);
    const auto* number = std::get_if<int64_t>(&value);
    const auto text = number ? fmt::format("{}", *number) : std::get<std::string>(value);
    const bool once = field.kind == FieldKind::word || field.kind == FieldKind::key ||
                      field.kind == FieldKind::whole;
    if (once && std::find(out.begin(), out.end(), text) != out.end())
      refuse_value(field, item, "it stands there twice; remove one");
    out.push_back(text);
  }
  return out;
}

}  // namespace qat::recipe
