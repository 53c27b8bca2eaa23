// UTF-8 checking and repair, the class table, NFC.
#include "models/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/core/error.h"

namespace qat::unicode {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::vector<uint8_t> build_classes() {
  std::vector<uint8_t> table(kCodeCount, 0);
  for (int i = 0; i < kClassRangeCount; ++i)
    for (uint32_t code = kClassRanges[i].first; code <= kClassRanges[i].last; ++code)
      table[code] |= kClassRanges[i].bit;
  return table;
}

// Bytes of the well-formed or maximal ill-formed part at `p`; the sign tells which.
int part_length(const unsigned char* p, const unsigned char* end) {
  const unsigned char first = p[0];
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return -1;
  unsigned char low = 0x80, high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  const int wanted = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (int i = 1; i < wanted; ++i) {
    if (p + i >= end || p[i] < low || p[i] > high) return -i;
    low = 0x80, high = 0xBF;
  }
  return wanted;
}

void append_nfc(std::string& out, std::string_view unit) {
  utf8proc_uint8_t* result = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(unit.data()),
                                   utf8proc_ssize_t(unit.size()), &result,
                                   utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (length < 0) internal_error("utf8proc_map failed: {}", utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(result), size_t(length));
}

}  // namespace

const uint8_t* classes() {
  static const std::vector<uint8_t> table = build_classes();
  return table.data();
}

void append(std::string& text, uint32_t code) {
  if (code < 0x80) {
    text += char(code);
  } else if (code < 0x800) {
    text += char(0xC0 | code >> 6);
    text += char(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    text += char(0xE0 | code >> 12);
    text += char(0x80 | (code >> 6 & 0x3F));
    text += char(0x80 | (code & 0x3F));
  } else {
    text += char(0xF0 | code >> 18);
    text += char(0x80 | (code >> 12 & 0x3F));
    text += char(0x80 | (code >> 6 & 0x3F));
    text += char(0x80 | (code & 0x3F));
  }
}

size_t valid_prefix(std::string_view text) {
  const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = begin + text.size();
  const auto* p = begin;
  while (p < end) {
    uint64_t word;
    if (end - p >= 8 && (std::memcpy(&word, p, 8), (word & 0x8080808080808080u) == 0)) {
      p += 8;
      continue;
    }
    const int length = part_length(p, end);
    if (length < 0) break;
    p += length;
  }
  return size_t(p - begin);
}

std::string replace_invalid(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  while (!text.empty()) {
    const size_t valid = valid_prefix(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    const auto* p = reinterpret_cast<const unsigned char*>(text.data());
    text.remove_prefix(size_t(-part_length(p, p + text.size())));
    out.append(kReplacement);
  }
  return out;
}

// Only an active character can change anything, and never across an inactive one, so the units of
// normalization are one inactive character and the active ones behind it. Characters that utf8proc
// knows and the older table behind kNfcActive does not are thereby left alone, as they should be.
std::string_view nfc(std::string_view text, std::string& storage) {
  const uint8_t* table = classes();
  const char* const end = text.data() + text.size();
  const char* copied = text.data();  // everything before is in storage, once something has changed
  const char* previous_start = text.data();
  bool changed = false;
  for (const char* p = text.data(); p < end;) {
    if (static_cast<unsigned char>(*p) < 0x80) {
      previous_start = p++;
      continue;
    }
    const Character character = decode(p);
    if (!(table[character.code] & kNfcActive)) {
      previous_start = p;
      p += character.bytes;
      continue;
    }
    // A mark that only utf8proc knows for one must not be moved either.
    const bool newer_mark =
        previous_start < p &&
        utf8proc_get_property(utf8proc_int32_t(decode(previous_start).code))->combining_class !=
            0 &&
        !(table[decode(previous_start).code] & kNfcActive);
    const char* const unit = newer_mark ? p : previous_start;
    do {
      p += length_from_first_byte(*p);
    } while (p < end && (table[decode(p).code] & kNfcActive));
    if (!changed) storage.clear();
    changed = true;
    storage.append(copied, size_t(unit - copied));
    append_nfc(storage, {unit, size_t(p - unit)});
    copied = previous_start = p;
  }
  if (!changed) return text;
  storage.append(copied, size_t(end - copied));
  return storage;
}

}  // namespace qat::unicode
