// HTML that cannot be injected into: text becomes Markup only through text(), which escapes it, and
// elements are made of Markup. What is written as it stands has to be a literal of ours.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace qat::report {

class Markup {
 public:
  Markup() = default;
  /// Our own markup, a literal.
  template <size_t N>
  static Markup literal(const char (&html)[N]) {
    return Markup(std::string(html, N - 1));
  }
  Markup& operator+=(const Markup& other) {
    html_ += other.html_;
    return *this;
  }
  friend Markup operator+(Markup a, const Markup& b) { return a += b; }
  const std::string& html() const { return html_; }
  bool empty() const { return html_.empty(); }

 private:
  friend Markup text(std::string_view);
  friend struct Writer;
  explicit Markup(std::string html) : html_(std::move(html)) {}
  std::string html_;
};

/// Escaped for element content and for attributes; control characters and what is no UTF-8 become
/// U+FFFD.
Markup text(std::string_view plain);

struct Attribute {
  std::string_view name;  ///< a literal
  std::string value;      ///< escaped
};
/// <tag name="value">content</tag>.
Markup element(std::string_view tag, std::initializer_list<Attribute> attributes,
               const Markup& content = {});
inline Markup element(std::string_view tag, const Markup& content) {
  return element(tag, {}, content);
}
inline Markup element(std::string_view tag, std::string_view plain) {
  return element(tag, {}, text(plain));
}

}  // namespace qat::report
