#include "recipes/run/recipe/field.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "recipes/run/recipe/yaml_tree.h"

namespace qat::recipe {
namespace {

std::string bounds(const Field& field) {
  const bool low = std::isfinite(field.low), high = std::isfinite(field.high);
  if (low && high && field.low_excluded)
    return fmt::format(" above {}, at most {}", field.low, field.high);
  if (low && high) return fmt::format(" from {} to {}", field.low, field.high);
  if (low) return fmt::format(" {} {}", field.low_excluded ? "above" : "of at least", field.low);
  return high ? fmt::format(" of at most {}", field.high) : "";
}

std::string whole_bounds(const Field& field) {
  if (!field.choices.empty()) return fmt::format(": {}", fmt::join(field.choices, " or "));
  return fmt::format(" from {} to {}", int64_t(field.low), int64_t(field.high));
}

std::string kind_text(const Field& field) {
  const bool list = field.arity == Arity::list;
  switch (field.kind) {
    case FieldKind::word:
      return "";
    case FieldKind::toggle:
      return "true or false";
    case FieldKind::whole:
      return (list ? "whole numbers" : "a whole number") + whole_bounds(field);
    case FieldKind::number:
      return "a number" + bounds(field);
    case FieldKind::text:
      return list ? "texts" : "a text";
    case FieldKind::path:
      return list ? "paths" : "a path";
    case FieldKind::layer_range:
      return "layers such as 3 or 0-5";
    case FieldKind::width:
      return "PATTERN=BITS such as down_proj=8 or model.layers.0.*=none";
    case FieldKind::key:
      return "keys of the recipe";
  }
  return "?";
}

/// Text that reads back as the same value of this field.
std::string scalar_text(const Field& field, const std::string& text) {
  const bool word = std::find(field.words.begin(), field.words.end(), text) != field.words.end();
  if (field.kind != FieldKind::path || word) return yaml_text(text);
  std::string escaped = text.starts_with('~') ? "./" : "";
  for (const char c : text) escaped += c == '$' ? "$$" : std::string(1, c);
  return yaml_text(escaped);
}

/// The shortest text that reads back to the same bits, with a point before an exponent: older
/// YAML readers take 2e-05 for text.
std::string number_text(double value) {
  std::string text = fmt::format("{}", value);
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos)
    text.insert(exponent, ".0");
  return text;
}

}  // namespace

std::string expectation(const Field& field) {
  std::string words;
  for (size_t i = 0; i < field.words.size(); ++i) words += (i == 0 ? "" : ", ") + field.words[i];
  const std::string kind = kind_text(field);
  std::string out = kind;
  if (kind.empty())
    out = field.words.size() == 1 || field.arity == Arity::list ? words : "one of " + words;
  else if (!words.empty())
    out = words + " or " + kind;
  return field.arity == Arity::list ? "a list of " + out : out;
}

std::string yaml_value(const Field& field, const FieldValue& value) {
  if (const auto* toggle = std::get_if<bool>(&value)) return *toggle ? "true" : "false";
  if (const auto* whole = std::get_if<int64_t>(&value)) return fmt::format("{}", *whole);
  if (const auto* number = std::get_if<double>(&value)) return number_text(*number);
  if (const auto* text = std::get_if<std::string>(&value)) return scalar_text(field, *text);
  std::string out;
  for (const auto& text : std::get<std::vector<std::string>>(value))
    out += (out.empty() ? "" : ", ") + scalar_text(field, text);
  return "[" + out + "]";
}

}  // namespace qat::recipe
