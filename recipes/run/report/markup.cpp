#include "recipes/run/report/markup.h"

#include <cstdint>

namespace qat::report {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes of the well-formed UTF-8 character that `plain` begins with; 0 if it begins with none.
size_t character(std::string_view plain) {
  const auto byte = [&](size_t i) { return uint8_t(plain[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || plain.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  const uint8_t second = byte(1);
  const bool too_long = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool no_scalar = (lead == 0xED && second > 0x9F) || (lead == 0xF4 && second > 0x8F);
  return too_long || no_scalar ? 0 : length;
}

}  // namespace

struct Writer {
  static Markup made(std::string html) { return Markup(std::move(html)); }
};

Markup text(std::string_view plain) {
  std::string html;
  for (size_t at = 0; at < plain.size();) {
    const size_t length = character(plain.substr(at));
    const char c = plain[at];
    const bool control = uint8_t(c) < 0x20 && c != '\n' && c != '\t';
    if (length == 0 || (length == 1 && (control || c == 0x7F)))
      html += kReplacement;
    else if (c == '&')
      html += "&amp;";
    else if (c == '<')
      html += "&lt;";
    else if (c == '>')
      html += "&gt;";
    else if (c == '"')
      html += "&quot;";
    else if (c == '\'')
      html += "&#39;";
    else
      html += plain.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return Writer::made(std::move(html));
}

Markup element(std::string_view tag, std::initializer_list<Attribute> attributes,
               const Markup& content) {
  std::string html;
  html.append("<").append(tag);
  for (const Attribute& attribute : attributes)
    html.append(" ")
        .append(attribute.name)
        .append("=\"")
        .append(text(attribute.value).html())
        .append("\"");
  html.append(">").append(content.html()).append("</").append(tag).append(">");
  return Writer::made(std::move(html));
}

}  // namespace qat::report
