// How each member type of the recipe turns into a FieldValue and back; used by the field table
// only.
#pragma once

#include <charconv>
#include <optional>
#include <type_traits>

#include "engine/core/error.h"
#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/words.h"

namespace qat::recipe::field_values {

template <class E>
E enum_of(const std::string& text) {
  for (const auto& [word, value] : Words<E>::list())
    if (word == text) return value;
  internal_error("no word {} in this enum of the recipe", text);
}

/// One row a member type: how it is stored, and the words it takes beside its kind's values.
template <class T>
struct Convert {  // bool, int64_t, double, std::string, std::vector<std::string>
  static FieldValue get(const T& member) { return member; }
  static void set(T& member, const FieldValue& value) { member = std::get<T>(value); }
  static std::vector<std::string> words(Spelling) { return {}; }
};

template <>
struct Convert<uint64_t> {
  static FieldValue get(uint64_t member) { return int64_t(member); }
  static void set(uint64_t& member, const FieldValue& value) {
    member = uint64_t(std::get<int64_t>(value));
  }
  static std::vector<std::string> words(Spelling) { return {}; }
};

template <class E>
requires std::is_enum_v<E>
struct Convert<E> {
  static FieldValue get(E member) { return word_of(member); }
  static void set(E& member, const FieldValue& value) {
    member = enum_of<E>(std::get<std::string>(value));
  }
  static std::vector<std::string> words(Spelling spelling) { return all_words<E>(spelling); }
};

template <class E>
requires std::is_enum_v<E>
struct Convert<std::vector<E>> {
  static FieldValue get(const std::vector<E>& member) {
    std::vector<std::string> out;
    for (E value : member) out.push_back(word_of(value));
    return out;
  }
  static void set(std::vector<E>& member, const FieldValue& value) {
    member.clear();
    for (const auto& word : std::get<std::vector<std::string>>(value))
      member.push_back(enum_of<E>(word));
  }
  static std::vector<std::string> words(Spelling spelling) { return all_words<E>(spelling); }
};

template <class E>
struct Convert<WordOrPath<E>> {
  static FieldValue get(const WordOrPath<E>& member) {
    return member.word == E::path ? member.path : word_of(member.word);
  }
  static void set(WordOrPath<E>& member, const FieldValue& value) {
    const auto& text = std::get<std::string>(value);
    member = {E::path, text};
    for (const auto& [word, meaning] : Words<E>::list())
      if (word == text) member = {meaning, ""};
  }
  static std::vector<std::string> words(Spelling spelling) { return all_words<E>(spelling); }
};

template <>
struct Convert<std::optional<int64_t>> {
  static FieldValue get(const std::optional<int64_t>& member) {
    return member ? FieldValue(*member) : FieldValue(std::string("none"));
  }
  static void set(std::optional<int64_t>& member, const FieldValue& value) {
    const auto* number = std::get_if<int64_t>(&value);
    member = number ? std::optional(*number) : std::nullopt;
  }
  static std::vector<std::string> words(Spelling spelling) {
    return spelling == Spelling::written ? std::vector<std::string>{"none"}
                                         : std::vector<std::string>{};
  }
};

template <>
struct Convert<std::optional<double>> {
  static FieldValue get(const std::optional<double>& member) {
    return member ? FieldValue(*member) : FieldValue(std::string("none"));
  }
  static void set(std::optional<double>& member, const FieldValue& value) {
    const auto* number = std::get_if<double>(&value);
    member = number ? std::optional(*number) : std::nullopt;
  }
  static std::vector<std::string> words(Spelling spelling) {
    return spelling == Spelling::written ? std::vector<std::string>{"none"}
                                         : std::vector<std::string>{};
  }
};

template <>
struct Convert<std::vector<int64_t>> {
  static FieldValue get(const std::vector<int64_t>& member) {
    std::vector<std::string> out;
    for (const int64_t number : member) out.push_back(fmt::format("{}", number));
    return out;
  }
  /// The numbers were checked when they were read.
  static void set(std::vector<int64_t>& member, const FieldValue& value) {
    member.clear();
    for (const auto& text : std::get<std::vector<std::string>>(value))
      std::from_chars(text.data(), text.data() + text.size(), member.emplace_back());
  }
  static std::vector<std::string> words(Spelling) { return {}; }
};

template <>
struct Convert<std::vector<WidthOverride>> {
  static FieldValue get(const std::vector<WidthOverride>& member) {
    std::vector<std::string> out;
    for (const auto& [pattern, bits] : member)
      out.push_back(pattern + "=" + (bits ? fmt::format("{}", *bits) : "none"));
    return out;
  }
  /// The text was checked when it was read: "PATTERN=4" or "PATTERN=none".
  static void set(std::vector<WidthOverride>& member, const FieldValue& value) {
    member.clear();
    for (const auto& text : std::get<std::vector<std::string>>(value)) {
      const size_t equals = text.rfind('=');
      WidthOverride width{text.substr(0, equals), {}};
      if (text.substr(equals + 1) != "none") width.bits = text[equals + 1] - '0';
      member.push_back(width);
    }
  }
  static std::vector<std::string> words(Spelling) { return {}; }
};

template <>
struct Convert<SmoothAlpha> {
  static FieldValue get(const SmoothAlpha& member) {
    if (member.mode == SmoothMode::fixed) return member.value;
    return std::string(member.mode == SmoothMode::search ? "search" : "none");
  }
  static void set(SmoothAlpha& member, const FieldValue& value) {
    if (const auto* number = std::get_if<double>(&value))
      member = {SmoothMode::fixed, *number};
    else
      member = {std::get<std::string>(value) == "search" ? SmoothMode::search : SmoothMode::off};
  }
  static std::vector<std::string> words(Spelling spelling) {
    return spelling == Spelling::written ? std::vector<std::string>{"none", "search"}
                                         : std::vector<std::string>{};
  }
};

template <>
struct Convert<std::vector<LayerRange>> {
  static FieldValue get(const std::vector<LayerRange>& member) {
    std::vector<std::string> out;
    for (const auto& range : member)
      out.push_back(range.first == range.last ? fmt::format("{}", range.first)
                                              : fmt::format("{}-{}", range.first, range.last));
    return out;
  }
  /// The text was checked when it was read: "3" or "0-5".
  static void set(std::vector<LayerRange>& member, const FieldValue& value) {
    member.clear();
    for (const auto& text : std::get<std::vector<std::string>>(value)) {
      LayerRange range;
      const char* end = text.data() + text.size();
      const auto dash = std::from_chars(text.data(), end, range.first).ptr;
      range.last = range.first;
      if (dash != end) std::from_chars(dash + 1, end, range.last);
      member.push_back(range);
    }
  }
  static std::vector<std::string> words(Spelling) { return {}; }
};

}  // namespace qat::recipe::field_values
