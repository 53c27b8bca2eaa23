// Directories of checkpoints; see the header.
#include "engine/train/checkpoint_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/atomic_file.h"
#include "engine/train/checkpoint_format.h"

namespace qat::checkpoint_files {
namespace {

constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

std::vector<std::string> names_in(int descriptor) {
  std::vector<std::string> names;
  const int copy = openat(descriptor, ".", kDirectoryFlags);
  DIR* entries = copy >= 0 ? fdopendir(copy) : nullptr;
  if (entries == nullptr) {
    if (copy >= 0) close(copy);
    return names;
  }
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(entries);
  std::sort(names.begin(), names.end());
  return names;
}

/// path is for messages; name lies in the open directory `parent`.
void remove_entry(int parent, const std::string& name, const std::string& path) {
  if (unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return;
  const int error = errno;
  if (error != EISDIR && error != EPERM) cannot_write("remove", path, error);
  {
    const Descriptor directory(openat(parent, name.c_str(), kDirectoryFlags));
    if (!directory) cannot_write("remove", path, errno == ENOTDIR ? error : errno);
    // A failure shows again below, as a directory that is not empty.
    if (unlinkat(directory.number(), checkpoint_format::kManifest, 0) == 0)
      fsync(directory.number());
    for (const std::string& inner : names_in(directory.number()))
      remove_entry(directory.number(), inner, path + "/" + inner);
  }
  if (unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
    cannot_write("remove", path, errno);
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

Descriptor open_directory(const std::string& path) {
  return Descriptor(open(path.c_str(), kDirectoryFlags));
}

std::vector<std::string> names_in(const std::string& directory) {
  const Descriptor descriptor = open_directory(directory);
  return descriptor ? names_in(descriptor.number()) : std::vector<std::string>();
}

bool exists(const std::string& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0;
}

bool is_directory(const std::string& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

void make_directory(const std::string& path) {
  if (mkdir(path.c_str(), 0777) == 0) return;
  const int error = errno;
  if (error != EEXIST || !is_directory(path)) cannot_write("make the directory", path, error);
}

void remove_tree(const std::string& path) {
  const size_t slash = path.rfind('/');
  const Descriptor parent(open(parent_directory(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent) {
    if (errno == ENOENT) return;
    cannot_write("open the directory", parent_directory(path), errno);
  }
  remove_entry(parent.number(), path.substr(slash == std::string::npos ? 0 : slash + 1), path);
}

void require_own_directory(const std::string& path) {
  if (exists(path) && !is_directory(path))
    refuse(
        "{}: expected a directory, got a link or a file; checkpoints are never followed out of "
        "the output directory: move it away, or make `out` itself the link's target",
        path);
}

std::vector<int64_t> steps_in(const std::string& directory) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(directory)) {
    const int64_t step = checkpoint_format::step_of_name(name);
    if (step >= 0) steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void remove_leftovers(const std::string& directory) {
  for (const std::string& name : names_in(directory)) {
    if (!name.starts_with("step-") || name.find(".tmp-") == std::string::npos) continue;
    const std::string path = directory + "/" + name;
    const Descriptor left = open_directory(path);
    if (!left) continue;
    if (flock(left.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
    log::info("{}: left by an interrupted save; removed", path);
    remove_tree(path);
  }
}

void mark_as_being_written(const Descriptor& directory) {
  // Where flock does not exist the run's lock alone keeps others away.
  flock(directory.number(), LOCK_EX | LOCK_NB);
}

std::string move_to_bad(const std::string& path, const std::string& run_id) {
  std::string aside = path + ".bad-" + run_id;
  for (int number = 2; exists(aside); ++number)
    aside = fmt::format("{}.bad-{}-{}", path, run_id, number);
  rename_durably(path, aside);
  return aside;
}

}  // namespace qat::checkpoint_files
