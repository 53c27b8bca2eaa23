// Files that are whole or not there: written aside, synced, renamed. Every failure is an
// Error(Exit::cannot_write) that names the file, what was being done and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qat {

/// A new file being written at its own name. Short writes and EINTR are looped over; nothing is
/// retried after a failed sync, because the lost pages would not be written again.
class OutputFile {
 public:
  /// Creates `path`; refuses a name that exists (a symbolic link included).
  explicit OutputFile(std::string path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  /// Closes without a check: a file that matters was closed by close().
  ~OutputFile();

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Asks the system to start writing what it holds back, without waiting: a later sync() of a
  /// large file then finds most of it done. A hint; it cannot fail.
  void start_sync();
  /// Returns when the bytes are on the device.
  void sync();
  /// Closes and reports what close() reports (NFS and quotas report here).
  void close();

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }

 private:
  std::string path_;
  uint64_t bytes_ = 0;
  int descriptor_ = -1;
};

/// Writes `path` so that it appears whole or not at all: into `path.tmp-<pid>-<random>` first,
/// which commit() syncs, closes, renames over `path`, and whose directory it syncs. Without
/// commit() the file aside is removed and `path` stays as it was.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, size_t bytes) { aside_.write(data, bytes); }
  void write(std::string_view text) { aside_.write(text); }
  uint64_t bytes() const { return aside_.bytes(); }
  void commit();

 private:
  std::string path_;
  OutputFile aside_;
  bool done_ = false;
};

/// The whole of a small file at once.
void write_file_atomically(const std::string& path, std::string_view text);

/// Makes the names in a directory durable.
void sync_directory(const std::string& path);
/// rename(2), then syncs the directory of `to`.
void rename_durably(const std::string& from, const std::string& to);
/// The directory a path lies in ("." for a bare name).
std::string parent_directory(const std::string& path);
/// Throws Error(Exit::cannot_write): "cannot ACTION PATH: REASON", the reason from errno's value.
[[noreturn]] void cannot_write(std::string_view action, const std::string& path, int error);

}  // namespace qat
