// Training data: a token file (its checksums are put right, they would hide everything behind
// them), or else records as JSON Lines.
#include <xxhash.h>

#include <cstring>
#include <vector>

#include "engine/data/readers.h"
#include "engine/data/token_cache.h"
#include "engine/data/token_layout.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

constexpr int64_t kVocabulary = 300;

bool read_tokens(std::string bytes, const Folder& folder) {
  if (bytes.size() >= sizeof(TokenHeader)) {
    TokenHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    header.data_checksum = XXH3_64bits(bytes.data() + sizeof header, bytes.size() - sizeof header);
    header.header_checksum = checksum_of(header);
    std::memcpy(bytes.data(), &header, sizeof header);
  }
  const std::string path = folder.write("data.bin", bytes);
  return read_or_refuse([&] {
    const auto file = TokenFile::open(path, kVocabulary);
    uint64_t begin = 0;
    for (const uint64_t end : file->document_ends()) {
      std::vector<int32_t> ids(end - begin);
      std::vector<uint8_t> mask(ids.size());
      file->read(begin, ids);
      file->read_mask(begin, mask);
      for (const int32_t id : ids)
        if (id < 0 || id >= kVocabulary) throw Broken("an id outside the vocabulary");
      begin = end;
    }
  });
}

bool read_records(std::string_view text, const Folder& folder) {
  const std::string path = folder.write("data.jsonl", text);
  ReadOptions options;
  options.renderer = [] {
    ChatRenderer renderer;
    renderer.render = [](const std::vector<ChatMessage>& messages) {
      std::vector<TextPiece> pieces;
      for (const ChatMessage& message : messages) pieces.push_back({message.content});
      return pieces;
    };
    return renderer;
  };
  read_or_refuse([&] {
    ContentHash content;
    read_joined_text(path, options, content);
  });
  return read_or_refuse([&] {
    options.format = format_of(path, options);
    read_documents(path, options, [](Document&&) {});
  });
}

}  // namespace

bool fuzz_tokens(std::string_view input) {
  static const Folder folder;
  return input.starts_with("QATT") ? read_tokens(std::string(input), folder)
                                   : read_records(input, folder);
}

}  // namespace qat::fuzz
