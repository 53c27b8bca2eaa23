// Typed access to the fields of a tokenizer.json; errors name the file and the path of the field.
#pragma once

#include <string>

#include "engine/core/error.h"
#include "engine/io/json.h"

namespace qat {

/// A JSON value together with where it stands ("file: model.vocab").
struct Field {
  const Json* value;
  std::string where;

  [[noreturn]] void refuse_type(const char* expected) const {
    refuse("{}: expected {}, got {}", where, expected,
           value == nullptr ? "nothing" : value->type_name());
  }
  bool present() const { return value != nullptr && !value->is_null(); }

  /// A member; absent ones have present() == false.
  Field operator[](const std::string& key) const {
    if (value == nullptr || !value->is_object()) refuse_type("an object");
    const auto found = value->find(key);
    return {found == value->end() ? nullptr : &*found, where + "." + key};
  }
  Field item(size_t index) const {
    if (value == nullptr || !value->is_array() || index >= value->size())
      refuse_type("a longer list");
    return {&(*value)[index], where + "[" + std::to_string(index) + "]"};
  }
  size_t list_size() const {
    if (value == nullptr || !value->is_array()) refuse_type("a list");
    return value->size();
  }
  const std::string& text() const {
    if (value == nullptr || !value->is_string()) refuse_type("a string");
    return value->get_ref<const std::string&>();
  }
  bool flag(bool otherwise) const {
    if (!present()) return otherwise;
    if (!value->is_boolean()) refuse_type("true or false");
    return value->get<bool>();
  }
  int64_t integer() const {
    if (value == nullptr || !value->is_number_integer()) refuse_type("a whole number");
    if (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t(INT64_MAX))
      refuse_type("a smaller number");
    return value->get<int64_t>();
  }
  /// The value of "type".
  const std::string& type() const { return (*this)["type"].text(); }
};

}  // namespace qat
