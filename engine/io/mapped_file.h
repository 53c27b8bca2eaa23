// A regular file mapped read-only. Devices, FIFOs and directories are refused without blocking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qat {

class MappedFile {
 public:
  /// Throws Error(refused) naming the path: missing, not a regular file, unreadable.
  static MappedFile open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::string& path() const { return path_; }
  size_t size() const { return size_; }
  const std::byte* data() const { return data_; }
  /// Bytes [offset, offset + length) as text; the caller has checked the range.
  std::string_view text(size_t offset, size_t length) const {
    return {reinterpret_cast<const char*>(data_) + offset, length};
  }
  /// Refuses if the file has changed size since it was opened: touching pages of a mapping that was
  /// truncated ends the process with SIGBUS, so large reads ask first.
  void check_unchanged() const;
  /// Tells the kernel that a range has been used and may leave memory.
  void release(size_t offset, size_t length) const;

 private:
  MappedFile() = default;
  void close() noexcept;

  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace qat
