// TensorBoard event files; see the header.
#include "engine/train/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <system_error>

#include "engine/core/log.h"
#include "engine/io/atomic_file.h"
#include "engine/train/checkpoint_files.h"
#include "engine/train/tensorboard_encode.h"

namespace qat {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// TensorBoard reads the files of a directory in the order of their names, so a clock that was set
/// back must not put the new one first.
int64_t time_of_name(const std::string& directory) {
  int64_t time = int64_t(now());
  for (const std::string& name : checkpoint_files::names_in(directory)) {
    if (!name.starts_with(kPrefix)) continue;
    int64_t earlier = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), earlier);
    time = std::max(time, earlier + 1);
  }
  return time;
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

}  // namespace

EventFile::EventFile(const std::string& directory, int64_t first_step)
    : path_(fmt::format("{}/{}{:010}.{}.{}", directory, kPrefix, time_of_name(directory),
                        host_name(), getpid())) {
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) cannot_write("create", path_, errno);
  write(tensorboard::version_event(now()));
  write(tensorboard::start_event(now(), first_step));
}

EventFile::~EventFile() {
  close(descriptor_);
}

void EventFile::scalars(int64_t step, std::span<const Scalar> values) {
  std::string all;
  for (const auto& [tag, value] : values) all += tensorboard::scalar_value(tag, value);
  write(tensorboard::summary_event(now(), step, all));
}

void EventFile::text(int64_t step, std::string_view tag, std::string_view markdown) {
  write(tensorboard::summary_event(now(), step, tensorboard::text_value(tag, markdown)));
}

void EventFile::histogram(int64_t step, std::string_view tag, std::span<const float> values) {
  write(tensorboard::summary_event(now(), step, tensorboard::histogram_value(tag, values)));
}

void EventFile::write(const std::string& event) {
  const std::string bytes = tensorboard::record(event);
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t done = pwrite(descriptor_, bytes.data() + written, bytes.size() - written,
                                off_t(end_) + off_t(written));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      if (health_ == Health::good)
        log::warn("cannot write {}: {}; training goes on without it", path_,
                  std::generic_category().message(done < 0 ? errno : EIO));
      health_ = Health::failing;
      // A torn record would hide what follows. The next one goes over it if this cannot cut it.
      if (written > 0 && ftruncate(descriptor_, off_t(end_)) != 0) log::debug("{}: torn", path_);
      return;
    }
    written += size_t(done);
  }
  end_ += int64_t(written);
  health_ = Health::good;
}

}  // namespace qat
