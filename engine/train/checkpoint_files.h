// Directories of checkpoints: listing, moving and removing without ever following a symbolic link.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace qat::checkpoint_files {

/// Closes at the end of its scope.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();
  int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

/// Opens a directory, not through a link; an empty descriptor and errno on failure.
Descriptor open_directory(const std::string& path);
/// Names in a directory, sorted; none if it cannot be read.
std::vector<std::string> names_in(const std::string& directory);
/// True if something, be it a dangling link, has this name.
bool exists(const std::string& path);
/// True for a directory that is not a link.
bool is_directory(const std::string& path);

/// Makes one directory; one that is there already will do. Throws Error(cannot_write).
void make_directory(const std::string& path);
/// Removes a directory and what is in it, the manifest first, so that a half-removed checkpoint
/// never passes for whole. A link inside is removed, not what it points to. Throws
/// Error(cannot_write). Nothing there is no failure.
void remove_tree(const std::string& path);
/// Refuses a `checkpoints` that is a link or no directory; one that does not exist passes.
void require_own_directory(const std::string& path);

/// Steps of everything named `step-N`, the highest first.
std::vector<int64_t> steps_in(const std::string& directory);
/// Removes `step-*.tmp-*` of writers that are gone (their flock on the directory is free).
void remove_leftovers(const std::string& directory);
/// Takes the flock that marks a directory as being written by a live process.
void mark_as_being_written(const Descriptor& directory);
/// Moves path to `path.bad-<run>`, numbered when that is taken. Returns the new name.
std::string move_to_bad(const std::string& path, const std::string& run_id);

}  // namespace qat::checkpoint_files
