// Bytes that print as themselves keep their code point; the others take 256, 257, ... in order.
#include "models/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "models/tokenizer/unicode.h"

namespace qat::byte_level {
namespace {

constexpr uint32_t kCodes = 256 + 68;

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, kCodes> bytes;
};

Alphabet build() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const uint32_t code = prints ? byte : next++;
    unicode::append(alphabet.characters[byte], code);
    alphabet.bytes[code] = int16_t(byte);
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet built = build();
  return built;
}

}  // namespace

std::string_view character(unsigned char byte) {
  return alphabet().characters[byte];
}

bool append_bytes(std::string_view piece, std::string& bytes) {
  const size_t before = bytes.size();
  const Alphabet& table = alphabet();
  for (size_t at = 0; at < piece.size();) {
    const unicode::Character character = unicode::decode(piece.data() + at);
    if (character.code >= kCodes || table.bytes[character.code] < 0) {
      bytes.resize(before);
      return false;
    }
    bytes += char(table.bytes[character.code]);
    at += character.bytes;
  }
  return true;
}

}  // namespace qat::byte_level
