// The header of a token file, shared by its reader and its writer.
#pragma once

#include <xxhash.h>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace qat {

static_assert(std::endian::native == std::endian::little, "token files are little endian");

inline constexpr char kTokenMagic[8] = {'Q', 'A', 'T', 'T', 'O', 'K', 'E', 'N'};
inline constexpr uint32_t kTokenVersion = 1;

struct TokenHeader {
  char magic[8];
  uint32_t version;
  uint32_t item_bytes;
  uint64_t tokenizer;
  uint64_t rendering;
  uint64_t source_hash;
  uint64_t source_bytes;
  uint64_t tokens;
  uint64_t documents;
  uint64_t empty_documents;
  uint64_t data_checksum;
  uint32_t highest_id;
  uint32_t has_mask;
  uint64_t reserved[4];
  uint64_t header_checksum;  ///< xxh3 of everything before it
};
static_assert(sizeof(TokenHeader) == 128);

inline uint64_t checksum_of(const TokenHeader& header) {
  return XXH3_64bits(&header, offsetof(TokenHeader, header_checksum));
}

/// Sections begin at multiples of 8 bytes.
inline uint64_t padded(uint64_t bytes) {
  return (bytes + 7) / 8 * 8;
}

}  // namespace qat
