// metrics.jsonl; see the header.
#include "engine/train/metrics.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>

#include "engine/core/log.h"
#include "engine/io/atomic_file.h"

namespace qat {
namespace {

using nlohmann::json;

constexpr size_t kMostWaiting = size_t(16) << 20;

template <class T>
std::string shortest(T value) {
  char text[64];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end);
}

/// The step of a record; -1 for a line that is none.
int64_t step_of_line(std::string_view line) {
  const json record = json::parse(line, nullptr, false);
  if (!record.is_object()) return -1;
  const json step = record.value("step", json());
  return step.is_number_integer() ? step.get<int64_t>() : -1;
}

/// Bytes of the file to keep: up to the last whole record of a step no later than last_step.
/// Walks from the end, so that a long file costs nothing.
size_t bytes_to_keep(std::string_view text, int64_t last_step) {
  size_t end = text.rfind('\n') + 1;  // npos + 1 is 0
  while (end > 0) {
    const size_t newline = end >= 2 ? text.rfind('\n', end - 2) : std::string_view::npos;
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    const int64_t step = step_of_line(text.substr(begin, end - begin));
    if (step >= 0 && step <= last_step) break;
    end = begin;
  }
  return end;
}

}  // namespace

std::string float_text(float value) {
  if (!std::isfinite(value)) return "null";
  std::string text = shortest(value);
  // Most readers parse a double and narrow it: rarely, that rounds twice to another float.
  double read = 0;
  std::from_chars(text.data(), text.data() + text.size(), read);
  return float(read) == value ? text : shortest(double(value));
}

std::string float_text(double value) {
  return std::isfinite(value) ? shortest(value) : std::string("null");
}

MetricsRecord::MetricsRecord(int64_t step)
    : step_(step), text_("{\"step\": " + std::to_string(step)) {}

MetricsRecord& MetricsRecord::add_text(std::string_view key, std::string_view value) {
  text_ += ", ";
  text_ += json(key).dump(-1, ' ', false, json::error_handler_t::replace);
  text_ += ": ";
  text_ += value;
  return *this;
}

MetricsRecord& MetricsRecord::add(std::string_view key, float value) {
  return add_text(key, float_text(value));
}

MetricsRecord& MetricsRecord::add(std::string_view key, double value) {
  return add_text(key, float_text(value));
}

MetricsRecord& MetricsRecord::add(std::string_view key, std::string_view value) {
  return add_text(key, json(value).dump(-1, ' ', false, json::error_handler_t::replace));
}

MetricsFile::MetricsFile(std::string path, int64_t last_step) : path_(std::move(path)) {
  descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) cannot_write("open", path_, errno);
  struct stat status {};
  fstat(descriptor_, &status);
  if (!S_ISREG(status.st_mode)) {
    end_ = -1;
    return;
  }
  const size_t bytes = size_t(status.st_size);
  size_t keep = 0;
  if (bytes > 0) {
    void* text = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor_, 0);
    if (text == MAP_FAILED) cannot_write("read", path_, errno);
    keep = bytes_to_keep({static_cast<const char*>(text), bytes}, last_step);
    munmap(text, bytes);
  }
  if (keep < bytes && ftruncate(descriptor_, off_t(keep)) != 0) {
    const int error = errno;
    close(descriptor_);
    cannot_write("truncate", path_, error);
  }
  end_ = int64_t(keep);
}

MetricsFile::~MetricsFile() {
  if (!waiting_.empty())
    log::warn("{}: the last {} bytes could not be written", path_, waiting_.size());
  close(descriptor_);
}

void MetricsFile::write(const MetricsRecord& record) {
  waiting_ += record.line();
  size_t written = 0;
  while (written < waiting_.size()) {
    const char* next = waiting_.data() + written;
    const size_t bytes = waiting_.size() - written;
    const ssize_t done = end_ < 0 ? ::write(descriptor_, next, bytes)
                                  : pwrite(descriptor_, next, bytes, off_t(end_) + off_t(written));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      warn_once(done < 0 ? errno : EIO);
      break;
    }
    written += size_t(done);
  }
  if (written == waiting_.size()) {
    if (end_ >= 0) end_ += int64_t(written);
    waiting_.clear();
    if (health_ == Health::failing) log::info("{}: written again", path_);
    health_ = Health::good;
    return;
  }
  if (end_ < 0) {
    waiting_.erase(0, written);  // what a pipe took is gone
  } else if (written > 0 && ftruncate(descriptor_, off_t(end_)) != 0) {
    warn_once(errno);  // the next write goes over the torn line all the same
  }
  while (waiting_.size() > kMostWaiting) waiting_.erase(0, waiting_.find('\n') + 1);
}

void MetricsFile::sync() {
  if (end_ >= 0 && fdatasync(descriptor_) != 0) warn_once(errno);
}

void MetricsFile::warn_once(int error) {
  if (health_ == Health::good)
    log::warn("cannot write {}: {}; training goes on, its lines wait in memory", path_,
              std::generic_category().message(error));
  health_ = Health::failing;
}

}  // namespace qat
