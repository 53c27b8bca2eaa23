// Decoder: every step turns the list of strings into another; at the end they are joined.
#include "models/tokenizer/decoder.h"

#include <string_view>
#include <utility>

#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  size_t from = 0;
  for (size_t at = text.find(pattern); at != std::string_view::npos;
       at = text.find(pattern, from)) {
    out.append(text.substr(from, at - from));
    out.append(content);
    from = at + pattern.size();
  }
  out.append(text.substr(from));
  return out;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte of a piece <0xNN>, -1 for any other. Rust's number reader also takes a plus sign.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return -1;
  const int high = token[3] == '+' ? 0 : hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::vector<std::string> byte_fallback(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (unicode::valid_prefix(bytes) == bytes.size())
      out.push_back(bytes);
    else
      for (size_t i = 0; i < bytes.size(); ++i) out.emplace_back("\xEF\xBF\xBD");
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    const int byte = fallback_byte(token);
    if (byte >= 0) {
      bytes += char(byte);
      continue;
    }
    flush();
    out.push_back(token);
  }
  flush();
  return out;
}

std::string strip(std::string_view text, const DecoderStep& step) {
  for (size_t i = 0; i < step.strip_start && text.starts_with(step.pattern); ++i)
    text.remove_prefix(step.pattern.size());
  for (size_t i = 0; i < step.strip_stop && text.ends_with(step.pattern); ++i)
    text.remove_suffix(step.pattern.size());
  return std::string(text);
}

std::vector<std::string> apply(const DecoderStep& step, std::vector<std::string> tokens) {
  using Kind = DecoderStep::Kind;
  switch (step.kind) {
    case Kind::byte_level: {
      std::string bytes;
      for (const std::string& token : tokens)
        if (!byte_level::append_bytes(token, bytes)) bytes += token;
      return {unicode::replace_invalid(bytes)};
    }
    case Kind::byte_fallback:
      return byte_fallback(tokens);
    case Kind::fuse: {
      std::string all;
      for (const std::string& token : tokens) all += token;
      return {all};
    }
    case Kind::replace:
      for (std::string& token : tokens) token = replace_all(token, step.pattern, step.content);
      return tokens;
    case Kind::strip:
      for (std::string& token : tokens) token = strip(token, step);
      return tokens;
    case Kind::metaspace:
      for (size_t i = 0; i < tokens.size(); ++i)
        tokens[i] =
            replace_all(tokens[i], step.pattern, i == 0 && step.drops_first_mark ? "" : " ");
      return tokens;
  }
  return tokens;
}

}  // namespace

std::string Decoder::decode(std::vector<std::string> tokens) const {
  for (const DecoderStep& step : steps_) tokens = apply(step, std::move(tokens));
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !present_) text += ' ';
    text += tokens[i];
  }
  return text;
}

}  // namespace qat
