// From a data file to its token file: encoded once, kept in a cache directory under a name that
// follows from the content of the file and everything that changes ids.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/data/readers.h"
#include "engine/data/token_cache.h"

namespace qat {

struct TokenizeOptions {
  ReadOptions read;
  TextEncoder encoder;
  /// Created if missing. "" = nothing is written, tokens are held in memory (--dry-run).
  std::string cache_directory;
};

/// How records become one or many documents.
enum class Records : uint8_t {
  documents,  ///< each record a document, with bos and eos of the encoder
  joined      ///< evaluation: one text, records joined by a blank line, no bos, no eos
};

/// A document's ids, and which of them count as targets (`counted` is empty without a mask).
struct EncodedDocument {
  std::vector<int32_t> ids;
  std::vector<uint8_t> counted;
};

/// `format` is not automatic. The pieces are encoded as one text, so ids never depend on where
/// pieces meet; a token that reaches over a border belongs to the later piece. Empty when there is
/// no text, or with a mask no counted text.
EncodedDocument encode_document(const Document& document, DataFormat format,
                                const TextEncoder& encoder);

/// Tokens of a data file: a token file (.bin) as it is, anything else from the cache or encoded
/// now. A stale entry is replaced silently, a damaged one with a warning. Refuses a token file of
/// another tokenizer, a bad record by file:line, and a file without any text.
std::shared_ptr<const TokenFile> open_tokens(const std::string& path,
                                             const TokenizeOptions& options,
                                             Records records = Records::documents);

/// Encodes `path` into the token file `output` (qat-tokenize -o).
std::shared_ptr<const TokenFile> write_tokens(const std::string& path,
                                              const TokenizeOptions& options, Records records,
                                              const std::string& output);

}  // namespace qat
