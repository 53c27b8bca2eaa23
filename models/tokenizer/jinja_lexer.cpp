// cut_template. The rules are those of jinja2's lexer with trim_blocks and lstrip_blocks: a newline
// right behind a statement or comment goes, and so does the indentation in front of one; "-" takes
// all white space on its side, "+" none.
#include "models/tokenizer/jinja_lexer.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/tokenizer/unicode.h"

namespace qat::jinja {
namespace {

constexpr std::string_view kSpaces = " \t\n\r\f\v";

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Cutter {
 public:
  explicit Cutter(std::string_view source) {
    // Jinja2 reads every kind of line end as \n and drops the last one.
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] != '\r') {
        text_ += source[i];
      } else {
        text_ += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      }
    }
    if (text_.ends_with('\n')) text_.pop_back();
  }

  std::vector<Part> cut() {
    while (true) {
      const size_t tag = find_tag();
      put_text(tag);
      if (tag == std::string::npos) return std::move(parts_);
      at_ = tag;
      if (text_[at_ + 1] == '#')
        comment();
      else
        tokens(text_[at_ + 1] == '{' ? Part::Type::output : Part::Type::statement);
    }
  }

 private:
  [[noreturn]] void broken(const std::string& what) const {
    refuse("chat template, line {}: {}", line(), what);
  }
  int line() const {
    return 1 + int(std::count(text_.begin(), text_.begin() + ptrdiff_t(std::min(at_, text_.size())),
                              '\n'));
  }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  size_t find_tag() const {
    for (size_t at = text_.find('{', at_); at != std::string::npos; at = text_.find('{', at + 1))
      if (at + 1 < text_.size() &&
          (text_[at + 1] == '{' || text_[at + 1] == '%' || text_[at + 1] == '#'))
        return at;
    return std::string::npos;
  }

  // The text from at_ to the tag, less what the tag takes away.
  void put_text(size_t tag) {
    std::string text = text_.substr(at_, tag == std::string::npos ? tag : tag - at_);
    if (strip_next_) text.erase(0, std::min(text.find_first_not_of(kSpaces), text.size()));
    const bool at_line_start = line_starts_ && !strip_next_;
    strip_next_ = false;
    if (tag != std::string::npos) {
      const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
      if (sign == '-') {
        const size_t last = text.find_last_not_of(kSpaces);
        text.erase(last == std::string::npos ? 0 : last + 1);
      } else if (sign != '+' && text_[tag + 1] != '{') {
        const size_t newline = text.rfind('\n');
        const size_t start = newline == std::string::npos ? 0 : newline + 1;
        if ((start > 0 || at_line_start) && text.find_first_not_of(" \t", start) == text.npos)
          text.erase(start);
      }
    }
    if (!text.empty()) parts_.push_back({Part::Type::text, std::move(text), {}, line()});
  }

  // Behind a tag: what the end sign and trim_blocks take away.
  void after_tag(char sign, bool trims) {
    line_starts_ = false;
    if (sign == '-') {
      strip_next_ = true;
    } else if (trims && sign != '+' && peek() == '\n') {
      ++at_;
      line_starts_ = true;
    }
  }

  void comment() {
    const size_t close = text_.find("#}", at_ + 2);
    if (close == std::string::npos) broken("a comment without an end");
    const char sign = close > at_ + 2 ? text_[close - 1] : '\0';
    at_ = close + 2;
    after_tag(sign, true);
  }

  void tokens(Part::Type type) {
    Part part{type, {}, {}, line()};
    at_ += 2;
    if (peek() == '-' || peek() == '+') ++at_;
    const char closing = type == Part::Type::output ? '}' : '%';
    int open = 0;  // inside brackets the closing sign is not looked for
    while (true) {
      while (at_ < text_.size() && kSpaces.find(text_[at_]) != kSpaces.npos) ++at_;
      if (at_ >= text_.size()) broken("a tag without an end");
      if (open == 0) {
        const bool signed_end = (peek() == '-' || peek() == '+') && peek(1) == closing;
        const size_t skip = signed_end ? 1 : 0;
        if (peek(skip) == closing && peek(skip + 1) == '}') {
          const char sign = signed_end ? peek() : '\0';
          at_ += skip + 2;
          part.tokens.push_back({Token::Type::end, "", 0});
          parts_.push_back(std::move(part));
          after_tag(sign, type == Part::Type::statement);
          return;
        }
      }
      part.tokens.push_back(token(open));
    }
  }

  Token token(int& open) {
    const char c = peek();
    if (is_name_start(c)) {
      const size_t begin = at_;
      while (is_name_start(peek()) || is_digit(peek())) ++at_;
      return {Token::Type::name, text_.substr(begin, at_ - begin), 0};
    }
    if (is_digit(c)) {
      int64_t number = 0;
      const size_t begin = at_;
      while (is_digit(peek()) && at_ - begin < 16) number = number * 10 + (text_[at_++] - '0');
      if (at_ - begin > 15 || (peek() == '.' && is_digit(peek(1))) || is_name_start(peek()))
        broken("only whole numbers of up to 15 digits can be read");
      return {Token::Type::integer, "", number};
    }
    if (c == '\'' || c == '"') return string(c);
    for (const std::string_view symbol : {"==", "!=", "<=", ">=", "//", "**"}) {
      if (std::string_view(text_).substr(at_).starts_with(symbol)) {
        at_ += 2;
        return {Token::Type::symbol, std::string(symbol), 0};
      }
    }
    if (std::string_view("()[]{}.,:|+-*/%~<>=").find(c) == std::string_view::npos)
      broken(fmt::format("unexpected character '{}'", printable({&c, 1})));
    if (c == '(' || c == '[' || c == '{') ++open;
    if (c == ')' || c == ']' || c == '}') --open;
    if (open < 0) broken("a bracket that was never opened");
    ++at_;
    return {Token::Type::symbol, std::string(1, c), 0};
  }

  // Python's string escapes; an unknown one keeps its backslash.
  Token string(char quote) {
    Token token{Token::Type::text, "", 0};
    for (++at_; peek() != quote; ++at_) {
      if (at_ >= text_.size()) broken("a string without an end");
      if (peek() != '\\') {
        token.text += peek();
        continue;
      }
      ++at_;
      constexpr std::string_view kFrom = "ntr\\'\"abfv", kTo = "\n\t\r\\'\"\a\b\f\v";
      const size_t known = at_ < text_.size() ? kFrom.find(peek()) : kFrom.npos;
      if (known != kFrom.npos) {
        token.text += kTo[known];
      } else if (peek() == 'u' || peek() == 'x') {
        unicode::append(token.text, hexadecimal(peek() == 'u' ? 4 : 2));
      } else if (is_digit(peek()) || peek() == 'U' || peek() == 'N' || peek() == '\n') {
        broken("an escape in a string that cannot be read exactly");
      } else {
        token.text += '\\';
        token.text += peek();
      }
    }
    ++at_;
    return token;
  }

  uint32_t hexadecimal(int digits) {
    uint32_t code = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = char(peek(1) | 0x20);
      ++at_;
      if (is_digit(c))
        code = code * 16 + uint32_t(c - '0');
      else if (c >= 'a' && c <= 'f')
        code = code * 16 + uint32_t(c - 'a' + 10);
      else
        broken("a malformed \\u or \\x in a string");
    }
    if (code >= 0xD800 && code < 0xE000) broken("a surrogate in a string");
    return code;
  }

  std::string text_;
  size_t at_ = 0;
  bool strip_next_ = false;
  bool line_starts_ = true;
  std::vector<Part> parts_;
};

}  // namespace

std::vector<Part> cut_template(std::string_view source) {
  return Cutter(source).cut();
}

}  // namespace qat::jinja
