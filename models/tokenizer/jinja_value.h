// Values of the chat template language (Jinja2, as Hugging Face runs it) and what Python does to
// them: truth, equality, str(), json.dumps().
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace qat::jinja {

class Value;
using List = std::vector<Value>;
using Dict = std::vector<std::pair<std::string, Value>>;  // in order of insertion

struct Undefined {
  std::string name;
};
struct None {};

/// What one rendering may make: the bytes of all its texts and lists, and of what it writes.
inline constexpr size_t kMostMade = size_t(256) << 20;

class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(Undefined undefined) : data_(std::move(undefined)) {}
  Value(None none) : data_(none) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string value) : data_(std::move(value)) {}
  Value(const char* value) : data_(std::string(value)) {}
  /// Refuses lists and dicts nested deeper than anything a template needs.
  Value(List list);
  Value(Dict dict);
  /// A dict whose members a template may set.
  static Value make_namespace(Dict dict);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&data_); }
  const double* real() const { return std::get_if<double>(&data_); }
  const std::string* text() const { return std::get_if<std::string>(&data_); }
  /// Lists and dicts are shared, as Python's references are.
  List* list() const {
    const auto* held = std::get_if<std::shared_ptr<List>>(&data_);
    return held == nullptr ? nullptr : held->get();
  }
  Dict* dict() const {
    const auto* held = std::get_if<std::shared_ptr<Dict>>(&data_);
    return held == nullptr ? nullptr : held->get();
  }
  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }

  /// A member of a dict, null if this is none or has no such key.
  const Value* find(std::string_view key) const;
  bool is_true() const;
  /// Python's name of the type, for errors.
  const char* type_name() const;
  bool is_namespace() const { return namespace_ == Namespace::itself; }
  /// True of a namespace, and of lists and dicts with one inside.
  bool holds_namespace() const { return namespace_ != Namespace::none; }

 private:
  enum class Namespace : uint8_t { none, inside, itself };
  void add_below(const Value& item);

  std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<List>,
               std::shared_ptr<Dict>>
      data_;
  uint8_t depth_ = 0;  // of the lists and dicts inside each other, this one included
  Namespace namespace_ = Namespace::none;
};

bool equal(const Value& a, const Value& b);
/// str(value). Refuses what has no short exact form here (lists, dicts, fractions).
std::string to_text(const Value& value);
/// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0 is none.
std::string to_json_text(const Value& value, int indent);

}  // namespace qat::jinja
