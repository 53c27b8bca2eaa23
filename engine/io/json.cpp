// A nlohmann SAX parse with our limits in front of it; the tree is built here so that duplicate
// keys are seen (nlohmann keeps the last one silently).
#include "engine/io/json.h"

#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "engine/core/error.h"
#include "engine/io/mapped_file.h"

namespace qat {
namespace {

// nlohmann tells SAX handlers no position; an iterator that leaves its own behind does.
struct TrackedIterator {
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  const char** last = nullptr;

  reference operator*() const { return *at; }
  TrackedIterator& operator++() {
    *last = ++at;
    return *this;
  }
  TrackedIterator operator++(int) {
    TrackedIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const TrackedIterator& a, const TrackedIterator& b) {
    return a.at == b.at;
  }
};

std::string plain_cause(const std::string& what) {
  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." -> after the bracket.
  const size_t bracket = what.find("] ");
  std::string cause = bracket == std::string::npos ? what : what.substr(bracket + 2);
  for (char& c : cause)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  if (cause.size() > 200) cause = cause.substr(0, 197) + "...";
  return cause;
}

// Enforces the limits and hands every event on.
class Adapter : public nlohmann::json_sax<Json> {
 public:
  Adapter(const std::string& name, const char* begin, const char* const* at,
          const JsonLimits& limits, JsonVisitor& visitor)
      : name_(name), begin_(begin), at_(at), limits_(limits), visitor_(visitor) {}

  bool null() override { return value(), visitor_.null(offset()), true; }
  bool boolean(bool v) override { return value(), visitor_.boolean(v, offset()), true; }
  bool number_integer(int64_t v) override { return value(), visitor_.integer(v, offset()), true; }
  bool number_unsigned(uint64_t v) override {
    return value(), visitor_.unsigned_integer(v, offset()), true;
  }
  bool number_float(double v, const std::string&) override {
    return value(), visitor_.real(v, offset()), true;
  }
  bool string(std::string& v) override { return value(), visitor_.string(v, offset()), true; }
  bool binary(Json::binary_t&) override { return false; }
  bool key(std::string& v) override { return visitor_.key(v, offset()), true; }
  bool start_object(size_t) override { return down(), visitor_.begin_object(offset()), true; }
  bool end_object() override { return --depth_, visitor_.end_object(offset()), true; }
  bool start_array(size_t) override { return down(), visitor_.begin_array(offset()), true; }
  bool end_array() override { return --depth_, visitor_.end_array(offset()), true; }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    refuse("{}: not valid JSON at byte {}: {}", name_, position, plain_cause(error.what()));
  }

 private:
  size_t offset() const { return size_t(*at_ - begin_); }
  void value() {
    if (++values_ > limits_.values)
      refuse("{}: more than {} JSON values (byte {}); refused to protect memory", name_,
             limits_.values, offset());
  }
  void down() {
    value();
    if (++depth_ > limits_.depth)
      refuse("{}: JSON nested deeper than {} (byte {})", name_, limits_.depth, offset());
  }

  const std::string& name_;
  const char* begin_;
  const char* const* at_;
  const JsonLimits& limits_;
  JsonVisitor& visitor_;
  size_t values_ = 0;
  int depth_ = 0;
};

class TreeBuilder : public JsonVisitor {
 public:
  explicit TreeBuilder(const std::string& name) : name_(name) {}

  void begin_object(size_t) override { stack_.push_back(put(Json::object())); }
  void end_object(size_t) override { stack_.pop_back(); }
  void begin_array(size_t) override { stack_.push_back(put(Json::array())); }
  void end_array(size_t) override { stack_.pop_back(); }
  void key(std::string& name, size_t offset) override {
    auto [slot, inserted] = stack_.back()->get_ref<Json::object_t&>().try_emplace(name);
    if (!inserted)
      refuse("{}: duplicate key \"{}\" at byte {}", name_, name.substr(0, 100), offset);
    slot_ = &slot->second;
  }
  void string(std::string& value, size_t) override { put(std::move(value)); }
  void integer(int64_t value, size_t) override { put(value); }
  void unsigned_integer(uint64_t value, size_t) override { put(value); }
  void real(double value, size_t) override { put(value); }
  void boolean(bool value, size_t) override { put(value); }
  void null(size_t) override { put(nullptr); }

  Json take() { return std::move(root_); }

 private:
  template <class T>
  Json* put(T&& value) {
    if (stack_.empty()) {
      root_ = Json(std::forward<T>(value));
      return &root_;
    }
    if (stack_.back()->is_array()) {
      auto& items = stack_.back()->get_ref<Json::array_t&>();
      items.emplace_back(std::forward<T>(value));
      return &items.back();
    }
    *slot_ = Json(std::forward<T>(value));
    return slot_;
  }

  const std::string& name_;
  Json root_;
  std::vector<Json*> stack_;
  Json* slot_ = nullptr;
};

}  // namespace

void visit_json(std::string_view text, const std::string& name, JsonVisitor& visitor,
                const JsonLimits& limits) {
  if (text.size() > limits.bytes)
    refuse("{}: {} bytes of JSON, at most {} are read", name, text.size(), limits.bytes);
  if (text.empty()) refuse("{}: empty, expected JSON", name);
  if (text.starts_with("\xEF\xBB\xBF"))
    refuse("{}: begins with a byte order mark (byte 0); save the file as plain UTF-8", name);
  const char* at = text.data();
  Adapter adapter(name, text.data(), &at, limits, visitor);
  const TrackedIterator first{text.data(), &at}, last{text.data() + text.size(), &at};
  Json::sax_parse(first, last, &adapter, Json::input_format_t::json, true);
}

Json parse_json(std::string_view text, const std::string& name, const JsonLimits& limits) {
  TreeBuilder builder(name);
  visit_json(text, name, builder, limits);
  return builder.take();
}

Json parse_json_object(std::string_view text, const std::string& name, const JsonLimits& limits) {
  Json json = parse_json(text, name, limits);
  if (!json.is_object())
    refuse("{}: expected a JSON object, got {}", name, std::string(json.type_name()));
  return json;
}

std::string read_text_file(const std::string& path, size_t limit) {
  const MappedFile file = MappedFile::open(path);
  if (file.size() > limit) refuse("{}: {} bytes, at most {} are read", path, file.size(), limit);
  return std::string(file.text(0, file.size()));
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  const MappedFile file = MappedFile::open(path);
  return parse_json(file.text(0, file.size()), path, limits);
}

}  // namespace qat
