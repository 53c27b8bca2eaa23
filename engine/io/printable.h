// Text from untrusted files, made fit for one line of an error message.
#pragma once

#include <string>
#include <string_view>

namespace qat {

/// Control bytes and non-ASCII become '?', and what is longer than `limit` is cut with "...".
inline std::string printable(std::string_view text, size_t limit = 120) {
  std::string out;
  for (char c : text.substr(0, limit)) out += c >= 0x20 && c < 0x7F ? c : '?';
  if (text.size() > limit) out += "...";
  return out;
}

}  // namespace qat
