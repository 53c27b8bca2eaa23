// Reading a file that a user named: only regular files (a FIFO or a device must not block), block
// by block, with a hash of what was really read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

/// An open descriptor, closed by its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return value_; }
  explicit operator bool() const { return value_ >= 0; }
  int release();

 private:
  int value_ = -1;
};

/// Content of a file: xxh3 of its bytes, and how many there are.
struct ContentHash {
  uint64_t hash = 0;
  uint64_t bytes = 0;
  friend bool operator==(const ContentHash&, const ContentHash&) = default;
};

class InputFile {
 public:
  /// Opens a regular file for reading without ever blocking. Refuses anything else by name.
  explicit InputFile(const std::string& path);
  ~InputFile();

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_.get(); }

  /// The next bytes, at most `capacity`; 0 at the end. Refuses with the cause on an I/O error.
  size_t read(char* out, size_t capacity);
  /// Hash of everything `read` has returned so far.
  ContentHash content() const;

 private:
  struct Hash;
  std::string path_;
  Descriptor descriptor_;
  uint64_t bytes_ = 0;
  std::unique_ptr<Hash> hash_;
};

/// Hash of a whole file, in constant memory.
ContentHash hash_file(const std::string& path);

/// Whole content in memory; `content` is the hash of these very bytes.
std::string read_all(InputFile& file);

/// The longest line for_each_line takes, in bytes.
inline constexpr size_t kLongestLine = size_t{256} << 20;

/// Calls `line(text, number)` for each line (numbers from 1, no line end, no byte-order mark).
/// Refuses a longer line by number.
void for_each_line(InputFile& file, const std::function<void(std::string_view, uint64_t)>& line);
/// As for_each_line, but reads no further than the first line for which `found` is true.
void find_line(InputFile& file, const std::function<bool(std::string_view, uint64_t)>& found);

/// Files of a list of paths and glob patterns: each pattern's matches in byte order, patterns in
/// the order given. Refuses an empty list and a pattern without a match.
std::vector<std::string> expand_globs(const std::vector<std::string>& patterns);

}  // namespace qat
