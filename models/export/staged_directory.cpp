#include "models/export/staged_directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// Does not follow a symbolic link at `path` itself or inside.
void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
}

bool holds_a_model(const std::string& directory) {
  std::error_code error;
  for (const char* name : {"/config.json", "/adapter_config.json"})
    if (fs::exists(directory + name, error)) return true;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.path().extension() != ".gguf") return false;
  return !error;
}

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

StagedDirectory::StagedDirectory(std::string target)
    : target_(without_slashes(std::move(target))),
      staging_(fmt::format("{}.tmp-{}", target_, getpid())) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target_, error);
  if (fs::exists(status)) {
    const bool ours =
        fs::is_directory(status) && (fs::is_empty(target_, error) || holds_a_model(target_));
    if (!ours)
      refuse(
          "{}: exists and is not an earlier export (a directory with config.json, "
          "adapter_config.json or .gguf files alone); remove it or export elsewhere",
          target_);
  }
  remove_tree(staging_);
  if (mkdir(staging_.c_str(), 0777) != 0) cannot_write("create the directory", staging_, errno);
}

StagedDirectory::~StagedDirectory() {
  if (!done_) remove_tree(staging_);
}

void StagedDirectory::commit() {
  sync_directory(staging_);
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target_, error))) {
    rename_durably(staging_, target_);
    done_ = true;
    return;
  }
  // The old export and the new one change places in one step, so that one of them always stands.
  if (renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    sync_directory(parent_directory(target_));
  } else {
    const int cause = errno;
    if (cause != EINVAL && cause != ENOSYS)
      cannot_write("put the new export in the place of", target_, cause);
    const std::string old = target_ + fmt::format(".old-{}", getpid());
    rename_durably(target_, old);
    rename_durably(staging_, target_);
    remove_tree(old);
  }
  done_ = true;
  remove_tree(staging_);
}

std::string StagedDirectory::keep_as_not_verified() {
  const std::string name = target_ + ".not-verified";
  remove_tree(name);
  rename_durably(staging_, name);
  done_ = true;
  return name;
}

}  // namespace qat
