// UTF-8 repair against the rule of Unicode 3.9 (what Rust's from_utf8_lossy and Python do), NFC.
#include "models/tokenizer/unicode.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace qat::unicode {
namespace {

const std::string kBad = "\xEF\xBF\xBD";

TEST(Utf8, ReplacesMaximalParts) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"plain", "plain"},
      {"\x80", kBad},
      {"\xC0\x80", kBad + kBad},  // overlong
      {"\xE2\x82", kBad},         // cut off
      {"\xE2\x82"
       "a",
       kBad + "a"},
      {"\xED\xA0\x80", kBad + kBad + kBad},  // a surrogate
      {"\xF0\x9F\x98", kBad},
      {"\xF0\x80\x80\x80", kBad + kBad + kBad + kBad},  // overlong
      {"\xF4\x90\x80\x80", kBad + kBad + kBad + kBad},  // beyond U+10FFFF
      {"\xF1\x80\x80\xE1\x80\xC2"
       "b",
       kBad + kBad + kBad + "b"},
      {"12345678\xFF"
       "12345678",
       "12345678" + kBad + "12345678"},
  };
  for (const auto& [bytes, expected] : cases) EXPECT_EQ(replace_invalid(bytes), expected);
}

TEST(Utf8, DecodesEveryCodePoint) {
  for (uint32_t code = 0; code < kCodeCount; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append(text, code);
    ASSERT_EQ(decode(text.data()).code, code);
    ASSERT_EQ(decode(text.data()).bytes, text.size());
    ASSERT_EQ(length_from_first_byte(text[0]), text.size());
    ASSERT_EQ(valid_prefix(text), text.size());
    ASSERT_EQ(previous(text.data(), text.data() + text.size()), text.data());
  }
}

TEST(Nfc, ComposesReordersAndLeavesAlone) {
  std::string storage;
  EXPECT_EQ(nfc("e\u0301", storage), "\u00e9");
  EXPECT_EQ(nfc("xe\u0301y e\u0301", storage), "x\u00e9y \u00e9");
  EXPECT_EQ(nfc("a\u0301\u0323", storage), "\u1ea1\u0301");
  EXPECT_EQ(nfc("\u1100\u1161\u11a8", storage), "\uac01");
  EXPECT_EQ(nfc("\u212b", storage), "\u00c5");
  EXPECT_EQ(nfc("\u0301", storage), "\u0301");
  const std::string_view same = "na\u00efve \u4f60\u597d";
  EXPECT_EQ(nfc(same, storage).data(), same.data());
}

TEST(Nfc, KeepsMarksThatAreNewerThanThePeersTables) {
  std::string storage;
  // U+0898 has a combining class since Unicode 14; the peer's table does not know it.
  EXPECT_EQ(nfc("a\u0315\u0898", storage), "a\u0315\u0898");
  EXPECT_EQ(nfc("x\u09fe\u0952\u09cd", storage), "x\u09fe\u09cd\u0952");
}

}  // namespace
}  // namespace qat::unicode
