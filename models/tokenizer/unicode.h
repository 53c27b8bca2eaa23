// UTF-8 and the character classes of the splitters. Classes follow Hugging Face `tokenizers`, whose
// parts use Unicode tables of different ages; see tests/tokenizer/make_unicode_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qat::unicode {

inline constexpr uint32_t kCodeCount = 0x110000;

/// Bits of one character's class.
enum Class : uint8_t {
  kLetter = 1,        ///< \p{L}
  kNumber = 2,        ///< \p{N}
  kSpace = 4,         ///< \s
  kNumeric = 8,       ///< what the Digits step takes for a digit
  kWord = 16,         ///< \w next to an added token of `single_word`
  kPunctuation = 32,  ///< what the Punctuation step isolates
  kNfcActive = 64     ///< NFC may change it, reorder it or compose it with what stands before
};

struct ClassRange {
  uint32_t first, last;
  Class bit;
};
extern const ClassRange kClassRanges[];
extern const int kClassRangeCount;

/// Code points that a general category gained after Unicode 14.
struct CategoryRange {
  uint32_t first, last;
  const char* category;
};
extern const CategoryRange kNewInCategory[];
extern const int kNewInCategoryCount;

/// One byte of class bits for each of the kCodeCount code points.
const uint8_t* classes();

struct Character {
  uint32_t code;
  uint32_t bytes;
};

/// The character at `at`, which must be the start of one in valid UTF-8.
inline Character decode(const char* at) {
  const auto* p = reinterpret_cast<const unsigned char*>(at);
  if (p[0] < 0x80) return {p[0], 1};
  if (p[0] < 0xE0) return {(p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu), 2};
  if (p[0] < 0xF0) return {(p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu), 3};
  return {(p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu), 4};
}

/// Bytes of the character whose first byte this is (valid UTF-8).
inline uint32_t length_from_first_byte(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// Start of the character that ends right before `end` (valid UTF-8, not at `begin`).
inline const char* previous(const char* begin, const char* end) {
  do {
    --end;
  } while (end > begin && (static_cast<unsigned char>(*end) & 0xC0) == 0x80);
  return end;
}

void append(std::string& text, uint32_t code);

/// Length of the longest valid UTF-8 prefix.
size_t valid_prefix(std::string_view text);

/// Every maximal ill-formed part becomes one U+FFFD (Unicode 3.9, as Rust and Python do it).
std::string replace_invalid(std::string_view text);

/// Normal form C. `changed` text is returned in `storage`, unchanged text as it came.
std::string_view nfc(std::string_view text, std::string& storage);

}  // namespace qat::unicode
