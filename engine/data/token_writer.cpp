// Writing token files: ids go to the file, mask and document ends to unnamed files beside it that
// are appended at the end, so that memory stays constant.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>

#include "engine/core/error.h"
#include "engine/data/token_cache.h"
#include "engine/data/token_layout.h"
#include "engine/io/atomic_file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlock = size_t{1} << 20;

/// A file written front to back through one block of memory.
class Output {
 public:
  Output(Descriptor descriptor, std::string name)
      : descriptor_(std::move(descriptor)), name_(std::move(name)) {
    block_.reserve(kBlock);
  }
  void write(const void* data, size_t bytes) {
    const char* from = static_cast<const char*>(data);
    written_ += bytes;
    if (block_.size() + bytes > kBlock) flush();
    if (bytes > kBlock) {
      put(from, bytes);
    } else {
      block_.insert(block_.end(), from, from + bytes);
    }
  }
  void flush() {
    put(block_.data(), block_.size());
    block_.clear();
  }
  uint64_t written() const { return written_; }
  int descriptor() const { return descriptor_.get(); }
  Descriptor take() { return std::move(descriptor_); }

 private:
  void put(const char* from, size_t bytes) {
    while (bytes > 0) {
      const ssize_t done = ::write(descriptor_.get(), from, bytes);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) cannot_write("write", name_, errno);
      from += done;
      bytes -= size_t(done);
    }
  }
  Descriptor descriptor_;
  std::string name_;
  std::vector<char> block_;
  uint64_t written_ = 0;
};

Descriptor create_exclusive(const std::string& path) {
  Descriptor descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!descriptor) cannot_write("create", path, errno);
  return descriptor;
}

std::string aside_name(const std::string& path) {
  std::random_device random;
  return fmt::format("{}.tmp-{}-{:08x}{:08x}", path, ::getpid(), random(), random());
}

Descriptor memory_file() {
  Descriptor descriptor(::memfd_create("tokens", MFD_CLOEXEC));
  if (!descriptor) cannot_write("create", "a token file in memory", errno);
  return descriptor;
}

/// A nameless file beside `path`, or in memory when there is no path.
Descriptor spool_beside(const std::string& path) {
  if (path.empty()) return memory_file();
  const std::string name = aside_name(path);
  Descriptor descriptor = create_exclusive(name);
  ::unlink(name.c_str());
  return descriptor;
}

/// Removes what killed writers of the same file left behind; a living writer holds a lock on its
/// own.
void remove_orphans(const std::string& path) {
  const std::string prefix = fs::path(path).filename().string() + ".tmp-";
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent_directory(path), ignored)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const Descriptor left(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (left && ::flock(left.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(entry.path().c_str());
  }
}

}  // namespace

struct TokenWriter::Impl {
  std::string path, aside;
  int64_t vocab_size;
  TokenHeader header{};
  std::unique_ptr<Output> ids, mask, ends;
  XXH3_state_t* checksum = XXH3_createState();
  std::vector<char> encoded;

  ~Impl() {
    if (!aside.empty()) ::unlink(aside.c_str());
    XXH3_freeState(checksum);
  }

  void put(const void* data, size_t bytes) {
    XXH3_64bits_update(checksum, data, bytes);
    ids->write(data, bytes);
  }

  void pad() {
    const char zeros[8] = {};
    put(zeros, padded(ids->written()) - ids->written());
  }

  void append(Output& spool) {
    spool.flush();
    std::vector<char> block(kBlock);
    for (uint64_t offset = 0; offset < spool.written();) {
      const ssize_t got = ::pread(spool.descriptor(), block.data(), block.size(), off_t(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) cannot_write("read back", path, got < 0 ? errno : EIO);
      put(block.data(), size_t(got));
      offset += uint64_t(got);
    }
  }
};

TokenWriter::TokenWriter(std::string path, int64_t vocab_size, LossMask mask)
    : impl_(std::make_unique<Impl>()) {
  Impl& self = *impl_;
  self.path = std::move(path);
  self.vocab_size = vocab_size;
  XXH3_64bits_reset(self.checksum);
  std::memcpy(self.header.magic, kTokenMagic, sizeof kTokenMagic);
  self.header.version = kTokenVersion;
  self.header.item_bytes = vocab_size <= 65536 ? 2 : 4;
  self.header.has_mask = mask == LossMask::present;
  Descriptor file;
  if (self.path.empty()) {
    file = memory_file();
  } else {
    remove_orphans(self.path);
    const std::string aside = aside_name(self.path);
    file = create_exclusive(aside);
    self.aside = aside;
    ::flock(file.get(), LOCK_EX | LOCK_NB);
  }
  const std::string name = self.path.empty() ? "a token file in memory" : self.path;
  self.ids = std::make_unique<Output>(std::move(file), name);
  self.ids->write(&self.header, sizeof self.header);
  self.ends = std::make_unique<Output>(spool_beside(self.path), name);
  if (mask == LossMask::present) {
    self.mask = std::make_unique<Output>(spool_beside(self.path), name);
  }
}

TokenWriter::~TokenWriter() = default;

void TokenWriter::add(std::span<const int32_t> ids, std::span<const uint8_t> counted,
                      const std::string& where) {
  Impl& self = *impl_;
  if (ids.empty()) {
    ++self.header.empty_documents;
    return;
  }
  if (counted.size() != (self.mask ? ids.size() : 0)) internal_error("{}: mask length", where);
  const size_t width = self.header.item_bytes;
  self.encoded.resize(ids.size() * width);
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    if (id < 0 || id >= self.vocab_size) {
      refuse("{}: token {} of the document has id {}, the model's vocabulary has {}", where, i, id,
             self.vocab_size);
    }
    self.header.highest_id = std::max(self.header.highest_id, uint32_t(id));
    std::memcpy(self.encoded.data() + i * width, &id, width);
  }
  self.put(self.encoded.data(), self.encoded.size());
  if (self.mask) self.mask->write(counted.data(), counted.size());
  self.header.tokens += ids.size();
  ++self.header.documents;
  self.ends->write(&self.header.tokens, sizeof self.header.tokens);
}

std::shared_ptr<const TokenFile> TokenWriter::commit(const TokenKey& key) {
  Impl& self = *impl_;
  TokenHeader& header = self.header;
  self.pad();
  if (self.mask) {
    self.append(*self.mask);
    self.pad();
  }
  self.append(*self.ends);
  self.ids->flush();
  header.tokenizer = key.tokenizer;
  header.rendering = key.rendering;
  header.source_hash = key.source.hash;
  header.source_bytes = key.source.bytes;
  header.data_checksum = XXH3_64bits_digest(self.checksum);
  header.header_checksum = checksum_of(header);
  Descriptor file = self.ids->take();
  if (::pwrite(file.get(), &header, sizeof header, 0) != ssize_t(sizeof header)) {
    cannot_write("write", self.path, errno);
  }
  if (self.path.empty())
    return TokenFile::adopt("(tokens in memory)", std::move(file), self.vocab_size);
  if (::fsync(file.get()) != 0) cannot_write("sync", self.path, errno);
  // Checked before it gets its name; what cannot be read back is not kept.
  auto opened = TokenFile::adopt(self.path, std::move(file), self.vocab_size);
  rename_durably(self.aside, self.path);
  self.aside.clear();
  return opened;
}

}  // namespace qat
