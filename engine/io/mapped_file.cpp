#include "engine/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/core/error.h"

namespace qat {

MappedFile MappedFile::open(const std::string& path) {
  if (path.find('\0') != std::string::npos) refuse("a path holds a zero byte");
  MappedFile file;
  file.path_ = path;
  // O_NONBLOCK: opening a FIFO without it waits for a writer.
  do {
    file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (file.descriptor_ < 0 && errno == EINTR);
  if (file.descriptor_ < 0) refuse("{}: cannot open: {}", path, std::strerror(errno));
  struct stat status {};
  if (::fstat(file.descriptor_, &status) != 0)
    refuse("{}: cannot inspect: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode))
    refuse("{}: not a regular file{}", path, S_ISDIR(status.st_mode) ? " but a directory" : "");
  file.size_ = size_t(status.st_size);
  if (file.size_ > 0) {
    void* mapped = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, file.descriptor_, 0);
    if (mapped == MAP_FAILED)
      refuse("{}: cannot map {} bytes: {}", path, file.size_, std::strerror(errno));
    file.data_ = static_cast<const std::byte*>(mapped);
  }
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept {
  *this = std::move(other);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    close();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

MappedFile::~MappedFile() {
  close();
}

void MappedFile::close() noexcept {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
  data_ = nullptr;
  descriptor_ = -1;
}

void MappedFile::check_unchanged() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || size_t(status.st_size) != size_)
    refuse("{}: changed while in use: had {} bytes when opened, now {}", path_, size_,
           int64_t(status.st_size));
}

void MappedFile::release(size_t offset, size_t length) const {
  if (length == 0) return;
  const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  ::madvise(const_cast<std::byte*>(data_) + begin, offset + length - begin, MADV_DONTNEED);
}

}  // namespace qat
