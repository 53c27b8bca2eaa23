// Files that are whole or not there; see the header.
#include "engine/io/atomic_file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "engine/core/error.h"

namespace qat {
namespace {

std::string name_aside(const std::string& path) {
  uint32_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) random = uint32_t(getpid());
  return fmt::format("{}.tmp-{}-{:08x}", path, getpid(), random);
}

}  // namespace

void cannot_write(std::string_view action, const std::string& path, int error) {
  throw Error(Exit::cannot_write, fmt::format("cannot {} {}: {}", action, path,
                                              std::generic_category().message(error)));
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  do {
    descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) cannot_write("create", path_, errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(descriptor_, next, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      const int error = done < 0 ? errno : EIO;
      cannot_write(fmt::format("write (at byte {})", bytes_), path_, error);
    }
    next += done;
    bytes -= size_t(done);
    bytes_ += uint64_t(done);
  }
}

void OutputFile::start_sync() {
  sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE);
}

void OutputFile::sync() {
  int status;
  do {
    status = fsync(descriptor_);
  } while (status != 0 && errno == EINTR);
  if (status != 0) cannot_write("sync", path_, errno);
}

void OutputFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  // Linux has closed the descriptor even when it reports EINTR; closing again would hit another.
  if (::close(descriptor) != 0 && errno != EINTR) cannot_write("close", path_, errno);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), aside_(name_aside(path_)) {}

AtomicFile::~AtomicFile() {
  if (!done_) unlink(aside_.path().c_str());
}

void AtomicFile::commit() {
  aside_.sync();
  aside_.close();
  if (rename(aside_.path().c_str(), path_.c_str()) != 0)
    cannot_write("rename " + aside_.path() + " to", path_, errno);
  done_ = true;
  sync_directory(parent_directory(path_));
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void sync_directory(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) cannot_write("open the directory", path, errno);
  int status;
  do {
    status = fsync(descriptor);
  } while (status != 0 && errno == EINTR);
  const int error = errno;
  ::close(descriptor);
  // Some network file systems cannot sync a directory; their rename is durable by itself.
  if (status != 0 && error != EINVAL && error != ENOTSUP)
    cannot_write("sync the directory", path, error);
}

void rename_durably(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) cannot_write("rename " + from + " to", to, errno);
  sync_directory(parent_directory(to));
}

std::string parent_directory(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.rfind('/', end);
  if (slash == std::string::npos) return ".";
  const size_t last = path.find_last_not_of('/', slash);
  return last == std::string::npos ? "/" : path.substr(0, last + 1);
}

}  // namespace qat
