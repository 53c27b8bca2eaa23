// Reading a file that a user named; see the header.
#include "engine/data/input_file.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/core/error.h"

namespace qat {
namespace {

constexpr size_t kBlock = size_t{1} << 20;

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (value_ >= 0) ::close(value_);
    value_ = other.release();
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (value_ >= 0) ::close(value_);
}

int Descriptor::release() {
  const int value = value_;
  value_ = -1;
  return value;
}

struct InputFile::Hash {
  XXH3_state_t* state = XXH3_createState();
  uint64_t bytes = 0;
  Hash() { XXH3_64bits_reset(state); }
  ~Hash() { XXH3_freeState(state); }
  Hash(const Hash&) = delete;
  Hash& operator=(const Hash&) = delete;
};

InputFile::InputFile(const std::string& path) : path_(path), hash_(std::make_unique<Hash>()) {
  // O_NONBLOCK: opening a FIFO without a writer returns at once, and is then refused.
  descriptor_ = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!descriptor_) refuse("{}: cannot open: {}", path, std::strerror(errno));
  struct stat status;
  if (::fstat(descriptor_.get(), &status) != 0) {
    refuse("{}: cannot inspect: {}", path, std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) {
    refuse("{}: is a directory; name the files in it, e.g. {}/*.jsonl", path, path);
  }
  if (!S_ISREG(status.st_mode)) {
    refuse("{}: is not a regular file (a pipe, socket or device); copy its content to a file",
           path);
  }
  bytes_ = uint64_t(status.st_size);
}

InputFile::~InputFile() = default;

size_t InputFile::read(char* out, size_t capacity) {
  for (;;) {
    const ssize_t got = ::read(descriptor_.get(), out, capacity);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse("{}: cannot read: {}", path_, std::strerror(errno));
    XXH3_64bits_update(hash_->state, out, size_t(got));
    hash_->bytes += uint64_t(got);
    return size_t(got);
  }
}

ContentHash InputFile::content() const {
  return {XXH3_64bits_digest(hash_->state), hash_->bytes};
}

ContentHash hash_file(const std::string& path) {
  InputFile file(path);
  std::vector<char> block(kBlock);
  while (file.read(block.data(), block.size()) > 0) {
  }
  return file.content();
}

std::string read_all(InputFile& file) {
  std::string text;
  text.reserve(file.bytes() + 1);
  for (;;) {
    const size_t had = text.size();
    text.resize(had + kBlock);
    const size_t got = file.read(text.data() + had, kBlock);
    text.resize(had + got);
    if (got == 0) return text;
  }
}

void for_each_line(InputFile& file, const std::function<void(std::string_view, uint64_t)>& line) {
  find_line(file, [&](std::string_view text, uint64_t number) {
    line(text, number);
    return false;
  });
}

void find_line(InputFile& file, const std::function<bool(std::string_view, uint64_t)>& found) {
  std::string pending;
  std::vector<char> block(kBlock);
  uint64_t number = 0;
  const auto emit = [&](std::string_view text) {
    ++number;
    if (number == 1 && text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    if (text.ends_with('\r')) text.remove_suffix(1);
    return found(text, number);
  };
  while (const size_t got = file.read(block.data(), block.size())) {
    std::string_view rest(block.data(), got);
    for (size_t end = rest.find('\n'); end != rest.npos; end = rest.find('\n')) {
      if (pending.empty()) {
        if (emit(rest.substr(0, end))) return;
      } else {
        pending.append(rest.substr(0, end));
        if (emit(pending)) return;
        pending.clear();
      }
      rest.remove_prefix(end + 1);
    }
    pending.append(rest);
    if (pending.size() > kLongestLine) {
      refuse("{}:{}: the line is longer than 256 MiB; one record a line is expected", file.path(),
             number + 1);
    }
  }
  if (!pending.empty()) emit(pending);
}

std::vector<std::string> expand_globs(const std::vector<std::string>& patterns) {
  if (patterns.empty()) refuse("no data file given; name at least one file or pattern");
  std::vector<std::string> files;
  for (const std::string& pattern : patterns) {
    // A name that exists is that file, whatever characters it holds.
    struct stat status;
    if (::stat(pattern.c_str(), &status) == 0) {
      files.push_back(pattern);
      continue;
    }
    glob_t found{};
    const int failure = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
    std::vector<std::string> matches(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    if (failure != 0 || matches.empty()) {
      refuse("{}: no such file{}", pattern,
             pattern.find_first_of("*?[") == pattern.npos ? "" : " (the pattern matches nothing)");
    }
    // The locale must not decide the order of the data.
    std::sort(matches.begin(), matches.end());
    files.insert(files.end(), matches.begin(), matches.end());
  }
  return files;
}

}  // namespace qat
