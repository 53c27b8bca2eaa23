// Split with any other regular expression. tokenizer.json is written for Oniguruma (Ruby syntax);
// it is translated construct by construct for PCRE2, and what the two may read differently is
// refused by name. Properties gain the characters that are newer than PCRE2's Unicode tables.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <cstring>

#include "engine/core/error.h"
#include "models/tokenizer/pre_tokenizer.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

constexpr std::string_view kSpaceRanges =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string translate() {
    while (at_ < pattern_.size()) one();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse_construct(std::string_view what) const {
    refuse(
        "{}: the regular expression {:?} uses {}, which cannot be read exactly here; supported "
        "are literals, \\p{{..}}, \\s, \\S, \\d, character classes, groups, look-around and "
        "quantifiers",
        where_, std::string(pattern_), what);
  }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }

  void one() {
    const char c = peek();
    switch (c) {
      case '\\':
        escape();
        return;
      case '[':
        character_class();
        return;
      case '(':
        group();
        return;
      case '*':
      case '+':
      case '?':
        quantifier();
        return;
      case '{':
        counted();
        return;
      case '^':
      case '$':
        refuse_construct(fmt::format("the anchor {}", c));
      case '.':
        out_ += "[^\\n]";
        ++at_;
        return;
      case '|':
      case ')':
        out_ += c;
        ++at_;
        return;
      default:
        literal();
    }
  }

  void literal() {
    const unicode::Character character = unicode::decode(pattern_.data() + at_);
    at_ += character.bytes;
    put(character.code);
  }
  void put(uint32_t code) { out_ += fmt::format("\\x{{{:x}}}", code); }

  // The code point of an escaped literal, -1 if this is not one.
  int64_t escaped_literal() {
    const char c = peek(1);
    const char* const found = c == '\0' ? nullptr : std::strchr("rntfv", c);
    if (found != nullptr) {
      at_ += 2;
      return std::string_view("\r\n\t\f\v")[size_t(std::string_view("rntfv").find(c))];
    }
    if (c == 'u' || c == 'x') {
      const bool braces = peek(2) == '{';
      size_t digit = at_ + (braces ? 3 : 2);
      const size_t most = braces ? 6 : c == 'u' ? 4 : 2;
      int64_t code = 0;
      size_t count = 0;
      for (; count < most && digit < pattern_.size(); ++count, ++digit) {
        const char* const hex = "0123456789abcdef";
        const char* const value = std::strchr(hex, pattern_[digit] | 0x20);
        if (pattern_[digit] == '\0' || value == nullptr || *value == '\0') break;
        code = code * 16 + (value - hex);
      }
      if (count == 0 || (!braces && count != most)) refuse_construct("a malformed \\u or \\x");
      if (braces && (digit >= pattern_.size() || pattern_[digit++] != '}'))
        refuse_construct("a malformed \\x{..}");
      if (code >= unicode::kCodeCount || (code >= 0xD800 && code < 0xE000) ||
          (c == 'x' && !braces && code > 0x7F))
        refuse_construct("an escape that is no character");
      at_ = digit;
      return code;
    }
    if (c != '\0' && (static_cast<unsigned char>(c) & 0x80) == 0 && std::ispunct(c)) {
      at_ += 2;
      return c;
    }
    if (c == ' ') {
      at_ += 2;
      return c;
    }
    return -1;
  }

  // \p{X} as the inside of a character class.
  std::string property() {
    const size_t close = pattern_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) refuse_construct("a malformed \\p");
    const std::string name(pattern_.substr(at_ + 3, close - at_ - 3));
    static constexpr std::string_view kNames[] = {
        "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mc", "Me", "N",  "Nd", "Nl", "No", "P",  "Pc",
        "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};
    bool known = false;
    for (const std::string_view candidate : kNames) known = known || candidate == name;
    if (!known) refuse_construct(fmt::format("\\p{{{}}}", name));
    at_ = close + 1;
    std::string inside = fmt::format("\\p{{{}}}", name);
    for (int i = 0; i < unicode::kNewInCategoryCount; ++i) {
      const unicode::CategoryRange& range = unicode::kNewInCategory[i];
      if (std::string_view(range.category).starts_with(name))
        inside += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", range.first, range.last);
    }
    return inside;
  }

  void escape() {
    switch (peek(1)) {
      case 'p':
        out_.append("[").append(property()).append("]");
        return;
      case 'P':
        out_.append("[^").append(property()).append("]");
        return;
      case 's':
        out_ += fmt::format("[{}]", kSpaceRanges);
        at_ += 2;
        return;
      case 'S':
        out_ += fmt::format("[^{}]", kSpaceRanges);
        at_ += 2;
        return;
      case 'd':
        at_ += 2;
        out_.append("[").append(Translator("\\p{Nd}", where_).property()).append("]");
        return;
      default:
        const char shown = peek(1);
        const int64_t code = escaped_literal();
        if (code < 0) refuse_construct(fmt::format("the escape \\{}", shown));
        put(uint32_t(code));
    }
  }

  void character_class() {
    out_ += '[';
    ++at_;
    if (peek() == '^') {
      out_ += '^';
      ++at_;
    }
    bool first = true;
    while (true) {
      if (at_ >= pattern_.size()) refuse_construct("a character class without an end");
      const char c = peek();
      if (c == ']') {
        if (first) refuse_construct("an empty character class");
        out_ += ']';
        ++at_;
        return;
      }
      first = false;
      if (c == '[') refuse_construct("a character class inside another");
      if (c == '&' && peek(1) == '&') refuse_construct("&& inside a character class");
      if (c == '\\' && peek(1) == 'p') {
        out_ += property();
      } else if (c == '\\' && peek(1) == 's') {
        out_ += kSpaceRanges;
        at_ += 2;
      } else if (c == '\\' && peek(1) == 'd') {
        out_ += Translator("\\p{Nd}", where_).property();
        at_ += 2;
      } else {
        class_range();
      }
    }
  }

  uint32_t class_character() {
    if (peek() == '\\') {
      const char shown = peek(1);
      const int64_t code = escaped_literal();
      if (code < 0) refuse_construct(fmt::format("\\{} inside a character class", shown));
      return uint32_t(code);
    }
    const unicode::Character character = unicode::decode(pattern_.data() + at_);
    at_ += character.bytes;
    return character.code;
  }

  void class_range() {
    const uint32_t low = class_character();
    put(low);
    if (peek() != '-' || peek(1) == ']') return;
    if (peek(1) == '[' || (peek(1) == '\\' && std::strchr("pPsSdDwW", peek(2)) != nullptr))
      refuse_construct("a range that ends in a class");
    ++at_;
    const uint32_t high = class_character();
    if (high < low) refuse_construct("a reversed range");
    out_ += '-';
    put(high);
  }

  void group() {
    if (peek(1) != '?') {
      out_ += "(?:";
      ++at_;
      return;
    }
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (!pattern_.substr(at_).starts_with(opening)) continue;
      out_ += opening;
      at_ += opening.size();
      return;
    }
    if (pattern_.substr(at_).starts_with("(?i:")) {
      case_insensitive();
      return;
    }
    refuse_construct(fmt::format("{}", pattern_.substr(at_, 4)));
  }

  // Oniguruma also folds one character into several (ss and the sharp s): only ASCII letters in
  // combinations that no such fold knows are the same in both.
  void case_insensitive() {
    const size_t close = pattern_.find(')', at_);
    if (close == std::string_view::npos) refuse_construct("a group without an end");
    const std::string_view inside = pattern_.substr(at_ + 4, close - at_ - 4);
    for (const char c : inside)
      if (!(c >= 'a' && c <= 'z') && std::strchr("'|[]", c) == nullptr)
        refuse_construct("(?i: with more than plain lower-case letters");
    for (const std::string_view fold : {"ss", "st", "ff", "fi", "fl"})
      if (inside.find(fold) != std::string_view::npos)
        refuse_construct(fmt::format("(?i: with {}", fold));
    out_ += fmt::format("(?i:{})", inside);
    at_ = close + 1;
  }

  void quantifier() {
    out_ += peek();
    ++at_;
    if (peek() == '?' || peek() == '+') {
      out_ += peek();
      ++at_;
    }
    if (peek() == '?' || peek() == '+' || peek() == '*') refuse_construct("a repeated quantifier");
  }

  void counted() {
    const size_t close = pattern_.find('}', at_);
    const std::string_view inside =
        close == std::string_view::npos ? "" : pattern_.substr(at_ + 1, close - at_ - 1);
    bool digits = !inside.empty() && inside.size() <= 11 && inside[0] != ',';
    int commas = 0;
    for (const char c : inside) {
      if (c == ',') ++commas;
      digits = digits && (c == ',' || (c >= '0' && c <= '9'));
    }
    if (!digits || commas > 1) refuse_construct("a brace that is no count");
    out_ += pattern_.substr(at_, close + 1 - at_);
    at_ = close + 1;
    if (peek() == '?' || peek() == '+' || peek() == '*') refuse_construct("a repeated quantifier");
  }

  std::string_view pattern_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

class RegexStep : public PreTokenizerStep {
 public:
  RegexStep(const std::string& pattern, Behavior behavior, Invert invert, const std::string& where)
      : behavior_(behavior), inverted_(invert == Invert::yes), where_(where) {
    const std::string translated = Translator(pattern, where).translate();
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
    if (code_ == nullptr)
      refuse("{}: the regular expression {:?} is not valid: {}", where, pattern, message(error));
    // Without JIT (memory that must not be executable) matching is slower and the same.
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
  }

  void cut(std::string_view text, Place place, PieceSink& sink) const override {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
        pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
    std::vector<Part> parts;
    size_t covered = 0, from = 0;
    bool any = false;
    while (from <= text.size()) {
      const int found = search(text, from, match.get());
      if (found == PCRE2_ERROR_NOMATCH) break;
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
      const size_t begin = range[0], end = range[1];
      if (begin == end && any && end == covered) {
        // An empty match right behind the last one would repeat for ever: one character on.
        from += from < text.size() ? unicode::length_from_first_byte(text[from]) : 1;
        continue;
      }
      if (covered != begin) parts.push_back({covered, begin, inverted_});
      parts.push_back({begin, end, !inverted_});
      covered = from = end;
      any = true;
    }
    if (covered != text.size()) parts.push_back({covered, text.size(), inverted_});
    emit_parts(text, place, parts, behavior_, sink);
  }

 private:
  static std::string message(int error) {
    unsigned char buffer[256] = {};
    pcre2_get_error_message(error, buffer, sizeof(buffer));
    return reinterpret_cast<const char*>(buffer);
  }

  int search(std::string_view text, size_t from, pcre2_match_data* match) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int found =
        pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, match, nullptr);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter works on the heap
      found = pcre2_match(code_.get(), subject, text.size(), from,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, nullptr);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
      refuse("{}: the regular expression cannot cut this text at byte {}: {}", where_, from,
             message(found));
    return found;
  }

  struct FreeCode {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  std::unique_ptr<pcre2_code, FreeCode> code_;
  Behavior behavior_;
  bool inverted_;
  std::string where_;
};

}  // namespace

std::unique_ptr<PreTokenizerStep> make_regex_step(const std::string& pattern, Behavior behavior,
                                                  Invert invert, const std::string& where) {
  // Matches of the known expressions cover the text, so nothing is ever removed between them.
  const bool keeps_matches =
      behavior == Behavior::isolated || (behavior == Behavior::removed && invert == Invert::yes);
  if (keeps_matches && pattern == kGpt2Regex) return make_known_regex_step(KnownRegex::gpt2);
  if (keeps_matches && pattern == kLlama3Regex) return make_known_regex_step(KnownRegex::llama3);
  if (keeps_matches && pattern == kQwen2Regex) return make_known_regex_step(KnownRegex::qwen2);
  return std::make_unique<RegexStep>(pattern, behavior, invert, where);
}

}  // namespace qat
