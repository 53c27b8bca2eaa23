// Reading and checking token files; see the header.
#include "engine/data/token_cache.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/core/error.h"
#include "engine/data/token_layout.h"

namespace qat {
namespace {

constexpr size_t kBlock = size_t{1} << 20;

template <class Id>
uint32_t highest(const std::byte* block, size_t bytes) {
  Id top = 0;
  const Id* ids = reinterpret_cast<const Id*>(block);
  for (size_t i = 0; i < bytes / sizeof(Id); ++i) top = std::max(top, ids[i]);
  return top;
}

uint64_t mask_offset(const TokenInfo& info) {
  return sizeof(TokenHeader) + padded(info.tokens * info.item_bytes);
}

uint64_t ends_offset(const TokenInfo& info) {
  return mask_offset(info) + (info.has_mask ? padded(info.tokens) : 0);
}

}  // namespace

std::shared_ptr<const TokenFile> TokenFile::open(const std::string& path, int64_t vocab_size) {
  // InputFile knows what must not be opened; the descriptor is ours from here.
  const InputFile input(path);
  return adopt(path, Descriptor(::dup(input.descriptor())), vocab_size);
}

std::shared_ptr<const TokenFile> TokenFile::adopt(std::string path, Descriptor descriptor,
                                                  int64_t vocab_size) {
  std::shared_ptr<TokenFile> file(new TokenFile);
  file->path_ = std::move(path);
  file->descriptor_ = std::move(descriptor);
  file->check_header();
  file->check_data(vocab_size);
  return file;
}

void TokenFile::check_header() {
  struct stat status;
  if (::fstat(descriptor_.get(), &status) != 0) {
    refuse("{}: cannot inspect: {}", path_, std::strerror(errno));
  }
  const uint64_t bytes = uint64_t(status.st_size);
  if (bytes == 0) refuse("{}: is empty; expected a token file (qat-tokenize -o writes one)", path_);
  TokenHeader header{};
  if (bytes < sizeof header) {
    refuse("{}: {} bytes are too short for a token file's header of {}", path_, bytes,
           sizeof header);
  }
  read_bytes(0, &header, sizeof header);
  if (std::memcmp(header.magic, kTokenMagic, sizeof kTokenMagic) != 0) {
    refuse("{}: is not a token file (it does not begin with QATTOKEN); write one with qat-tokenize",
           path_);
  }
  if (header.version != kTokenVersion) {
    refuse("{}: token file version {}, this build reads version {}; tokenize the text again", path_,
           header.version, kTokenVersion);
  }
  if (header.header_checksum != checksum_of(header)) {
    refuse("{}: the header is damaged (checksum mismatch); tokenize the text again", path_);
  }
  const bool sane = (header.item_bytes == 2 || header.item_bytes == 4) && header.has_mask <= 1 &&
                    header.tokens <= (uint64_t{1} << 48) && header.documents <= header.tokens;
  if (!sane) refuse("{}: the header holds impossible numbers; tokenize the text again", path_);
  info_.key = {header.tokenizer, header.rendering, {header.source_hash, header.source_bytes}};
  info_.tokens = header.tokens;
  info_.documents = header.documents;
  info_.empty_documents = header.empty_documents;
  info_.data_checksum = header.data_checksum;
  info_.highest_id = header.highest_id;
  info_.item_bytes = header.item_bytes;
  info_.has_mask = header.has_mask == 1;
  const uint64_t expected = ends_offset(info_) + info_.documents * sizeof(uint64_t);
  if (bytes != expected) {
    refuse("{}: {} bytes long, {} expected for {} tokens in {} documents ({}); tokenize again",
           path_, bytes, expected, info_.tokens, info_.documents,
           bytes < expected ? "truncated" : "trailing bytes");
  }
  if (info_.tokens == 0) refuse("{}: holds no tokens", path_);
}

void TokenFile::check_data(int64_t vocab_size) {
  std::vector<std::byte> block(kBlock);
  XXH3_state_t* state = XXH3_createState();
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> owner(state, &XXH3_freeState);
  XXH3_64bits_reset(state);
  const uint64_t ids_end = sizeof(TokenHeader) + info_.tokens * info_.item_bytes;
  const uint64_t end = ends_offset(info_);
  uint32_t top = 0;
  for (uint64_t offset = sizeof(TokenHeader); offset < end; offset += kBlock) {
    const size_t bytes = size_t(std::min<uint64_t>(kBlock, end - offset));
    read_bytes(offset, block.data(), bytes);
    XXH3_64bits_update(state, block.data(), bytes);
    if (offset >= ids_end) continue;
    const size_t of_ids = size_t(std::min<uint64_t>(bytes, ids_end - offset));
    top = std::max(top, info_.item_bytes == 2 ? highest<uint16_t>(block.data(), of_ids)
                                              : highest<uint32_t>(block.data(), of_ids));
  }
  document_ends_.resize(info_.documents);
  read_bytes(end, document_ends_.data(), document_ends_.size() * sizeof(uint64_t));
  XXH3_64bits_update(state, document_ends_.data(), document_ends_.size() * sizeof(uint64_t));
  if (XXH3_64bits_digest(state) != info_.data_checksum) {
    refuse("{}: the data is damaged (checksum mismatch); tokenize the text again", path_);
  }
  if (int64_t(top) >= vocab_size) {
    refuse(
        "{}: holds token id {}, the model's vocabulary has {}; tokenize with the model's tokenizer",
        path_, top, vocab_size);
  }
  uint64_t before = 0;
  for (const uint64_t document_end : document_ends_) {
    if (document_end <= before) refuse("{}: the document ends are not increasing", path_);
    before = document_end;
  }
  if (before != info_.tokens) refuse("{}: the documents do not cover the tokens", path_);
}

void TokenFile::read(uint64_t begin, std::span<int32_t> out) const {
  if (begin + out.size() > info_.tokens) internal_error("{}: read past the last token", path_);
  const uint64_t offset = sizeof(TokenHeader) + begin * info_.item_bytes;
  if (info_.item_bytes == 4) {
    read_bytes(offset, out.data(), out.size_bytes());
    return;
  }
  std::vector<uint16_t> narrow(out.size());
  read_bytes(offset, narrow.data(), narrow.size() * sizeof(uint16_t));
  std::copy(narrow.begin(), narrow.end(), out.begin());
}

void TokenFile::read_mask(uint64_t begin, std::span<uint8_t> out) const {
  if (begin + out.size() > info_.tokens) internal_error("{}: read past the last token", path_);
  if (info_.has_mask) {
    read_bytes(mask_offset(info_) + begin, out.data(), out.size());
  } else {
    std::fill(out.begin(), out.end(), uint8_t{1});
  }
}

void TokenFile::read_bytes(uint64_t offset, void* out, size_t bytes) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_.get(), to, bytes, off_t(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse("{}: cannot read: {}", path_, std::strerror(errno));
    if (got == 0) refuse("{}: ends at byte {}: truncated while in use", path_, offset);
    to += got;
    offset += uint64_t(got);
    bytes -= size_t(got);
  }
}

}  // namespace qat
