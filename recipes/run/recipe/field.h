// One row of the recipe's field table, and the generic value a row reads and writes. Everything
// that knows about keys (parsing, defaults, help, echo, reference, schema, differences) walks the
// rows.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {

/// A value between YAML and a member: a list is std::vector, a word (an enum, `none`) is a string.
using FieldValue = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;

/// What a key takes besides its words.
enum class FieldKind {
  word,         ///< its words only
  toggle,       ///< true, false, on, off
  whole,        ///< a whole number within [low, high]
  number,       ///< a finite number within [low, high]
  text,         ///< any text
  path,         ///< text in which ~, $NAME and ${NAME} are expanded
  layer_range,  ///< 3 or 0-5
  width,        ///< PATTERN=BITS
  key           ///< a key or section of the recipe
};
enum class Arity { one, list };
/// Whether a key decides the numbers of a run: part of the hash, and equal when a run is resumed.
enum class Matters { yes, no };
enum class Need { optional, required };
/// Whether a text may be empty.
enum class Blank { refused, allowed };

/// A key that has a meaning only beside others: `means` says when, for messages.
struct FieldCondition {
  const char* means = nullptr;             ///< "train.schedule.kind is wsd"
  std::vector<std::string> deciders;       ///< the keys (or sections) that decide it
  bool (*holds)(const Recipe&) = nullptr;  ///< null: always
};

struct Field {
  std::string key;
  FieldKind kind = FieldKind::text;
  Arity arity = Arity::one;
  std::vector<std::string> words;        ///< allowed beside the kind's values
  std::vector<std::string> other_words;  ///< spellings that are read but never written
  std::vector<int64_t> choices;          ///< a whole number must be one of these, if there are any
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false;
  Matters matters = Matters::yes;
  Need need = Need::optional;
  Blank blank = Blank::refused;
  std::string help;
  std::string default_note;  ///< for the reference, when the default follows from other keys
  std::vector<std::string> nicknames;  ///< what other programs call it, for suggestions
  std::string also;                    ///< a second key that is read but never written
  FieldCondition when;
  FieldValue (*get)(const Recipe&) = nullptr;
  void (*set)(Recipe&, const FieldValue&) = nullptr;
};

/// A map of the recipe: its help, and the key that a scalar or list in its place stands for
/// (`smooth: 0.5` is `smooth: {alpha: 0.5}`); empty if it must be a map.
struct Section {
  std::string key, short_for, help;
};

/// In the order of the reference and of the echo.
const std::vector<Field>& recipe_fields();
const std::vector<Section>& recipe_sections();
const Field* find_field(const std::string& key);
const Section* find_section(const std::string& key);

/// "a whole number from 2 to 8 or none", "one of cosine, linear".
std::string expectation(const Field& field);
/// The value as a recipe writes it, on one line.
std::string yaml_value(const Field& field, const FieldValue& value);

}  // namespace qat::recipe
