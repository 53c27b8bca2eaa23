// The field table as a JSON schema, for completion and checks in editors. It cannot say what needs
// several keys; the parser does.
#include <cmath>
#include <nlohmann/json.hpp>

#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

using Json = nlohmann::ordered_json;

/// A bound without a fraction is written as an integer.
Json bound(double value) {
  return value == std::floor(value) ? Json(int64_t(value)) : Json(value);
}

void add_bounds(const Field& field, Json& schema) {
  if (std::isfinite(field.low))
    schema[field.low_excluded ? "exclusiveMinimum" : "minimum"] = bound(field.low);
  if (std::isfinite(field.high)) schema["maximum"] = bound(field.high);
}

/// What a field takes beside its words; null if nothing.
Json kind_schema(const Field& field) {
  Json schema;
  switch (field.kind) {
    case FieldKind::word:
      break;
    case FieldKind::toggle:
      schema["enum"] = {true, false, "on", "off"};
      break;
    case FieldKind::whole:
      schema["type"] = "integer";
      if (!field.choices.empty())
        schema["enum"] = field.choices;
      else
        add_bounds(field, schema);
      break;
    case FieldKind::number:
      schema["type"] = "number";
      add_bounds(field, schema);
      break;
    case FieldKind::text:
      schema["type"] = {"string", "number", "boolean"};  // text needs no quotes in a recipe
      break;
    case FieldKind::path:
    case FieldKind::key:
      schema["type"] = "string";
      break;
    case FieldKind::width:
      schema["type"] = "string";
      schema["pattern"] = "^.+=([2-8]|none)$";
      break;
    case FieldKind::layer_range:
      schema["anyOf"] = {Json{{"type", "integer"}, {"minimum", 0}},
                         Json{{"type", "string"}, {"pattern", "^[0-9]{1,5}(-[0-9]{1,5})?$"}}};
      break;
  }
  return schema;
}

Json item_schema(const Field& field) {
  const Json kind = kind_schema(field);
  if (field.words.empty()) return kind;
  std::vector<std::string> words = field.words;
  words.insert(words.end(), field.other_words.begin(), field.other_words.end());
  const Json named = {{"enum", words}};
  return kind.is_null() ? named : Json{{"anyOf", {named, kind}}};
}

Json value_schema(const Field& field) {
  const Json item = item_schema(field);
  if (field.arity == Arity::one) return item;
  return {{"anyOf", {item, Json{{"type", "array"}, {"items", item}}}}};
}

Json field_schema(const Field& field) {
  Json schema = {{"description", field.help}};
  schema.update(value_schema(field));
  return schema;
}

std::string last_part(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

bool directly_below(const std::string& key, const std::string& section) {
  const size_t dot = key.rfind('.');
  return (dot == std::string::npos ? "" : key.substr(0, dot)) == section;
}

Json map_schema(const std::string& section) {
  Json schema = {{"type", "object"}, {"additionalProperties", false}};
  Json properties = Json::object();
  for (const auto& field : recipe_fields()) {
    if (!directly_below(field.key, section)) continue;
    properties[last_part(field.key)] = field_schema(field);
    if (!field.also.empty()) properties[last_part(field.also)] = field_schema(field);
  }
  for (const auto& below : recipe_sections()) {
    if (!directly_below(below.key, section)) continue;
    Json entry = {{"description", below.help}};
    if (below.short_for.empty())
      entry.update(map_schema(below.key));
    else
      entry["anyOf"] = {value_schema(*find_field(below.short_for)), map_schema(below.key)};
    properties[last_part(below.key)] = entry;
  }
  schema["properties"] = properties;
  return schema;
}

}  // namespace

std::string recipe_schema() {
  Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                 {"title", "qat-train recipe"}};
  schema.update(map_schema(""));
  return schema.dump(2) + "\n";
}

}  // namespace qat::recipe
