// Token files: the ids of a data file, encoded once. Little endian:
//   header (128 bytes, checksummed) | ids u16 or u32, padded to 8 | one byte a token: counts for
//   the loss (only with a mask), padded to 8 | where each document ends, u64 token index
// The checksum of the data is xxh3 of everything after the header. Ids and mask are read with
// pread, not through a mapping: a file truncated while it is in use is then an error and not
// SIGBUS.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/data/input_file.h"

namespace qat {

/// What a token file was made from; a cache entry is stale when any of it differs.
struct TokenKey {
  uint64_t tokenizer = 0;  ///< fingerprint of the encoder
  uint64_t rendering = 0;  ///< hash of format, field names, template, bos and eos
  ContentHash source;
  friend bool operator==(const TokenKey&, const TokenKey&) = default;
};

struct TokenInfo {
  TokenKey key;
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint64_t empty_documents = 0;  ///< skipped when the file was made
  uint64_t data_checksum = 0;
  uint32_t highest_id = 0;
  uint32_t item_bytes = 2;  ///< 2 or 4 a token
  bool has_mask = false;
};

/// A token file open for reading; checked as a whole when opened.
class TokenFile {
 public:
  /// Reads the header, verifies both checksums, the length, the document ends and that all ids lie
  /// in [0, vocab_size). Refuses with file and cause.
  static std::shared_ptr<const TokenFile> open(const std::string& path, int64_t vocab_size);

  const std::string& path() const { return path_; }
  const TokenInfo& info() const { return info_; }
  /// Token index just past each document; strictly increasing, the last is info().tokens.
  std::span<const uint64_t> document_ends() const { return document_ends_; }

  /// Ids of tokens [begin, begin + out.size()).
  void read(uint64_t begin, std::span<int32_t> out) const;
  /// 1 where the token counts for the loss as a target; all ones without a mask.
  void read_mask(uint64_t begin, std::span<uint8_t> out) const;

 private:
  friend class TokenWriter;
  TokenFile() = default;
  static std::shared_ptr<const TokenFile> adopt(std::string path, Descriptor descriptor,
                                                int64_t vocab_size);
  void check_header();
  void check_data(int64_t vocab_size);
  void read_bytes(uint64_t offset, void* out, size_t bytes) const;

  std::string path_;
  Descriptor descriptor_;
  TokenInfo info_;
  std::vector<uint64_t> document_ends_;
};

enum class LossMask : uint8_t { absent, present };

/// Writes a token file document by document in constant memory: aside, then renamed by `commit`.
/// Without `commit` nothing stays. Throws Error(cannot_write) when the disk refuses.
class TokenWriter {
 public:
  /// path "" = an anonymous file in memory, nothing on disk.
  TokenWriter(std::string path, int64_t vocab_size, LossMask mask);
  ~TokenWriter();

  /// Adds a document; `counted` has one byte a token with a mask, else is empty. `where` names the
  /// document should an id lie outside the vocabulary. An empty document is only counted.
  void add(std::span<const int32_t> ids, std::span<const uint8_t> counted,
           const std::string& where);
  /// Finishes the file under its name and opens it.
  std::shared_ptr<const TokenFile> commit(const TokenKey& key);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qat
