// The layout of a run's output directory; see the header.
#include "engine/train/run_directory.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "engine/train/checkpoint_files.h"
#include "engine/train/checkpoint_format.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Room for "/checkpoints/step-N.tmp-RUN/rank-0000-of-0001.bin" and "/export/FORMAT/FILE".
constexpr size_t kLongestInside = 200;

/// Absolute, links resolved as far as the path exists, no "..", no trailing slash.
fs::path resolved(const std::string& path) {
  std::error_code error;
  fs::path result = fs::weakly_canonical(fs::absolute(path, error), error);
  if (error) refuse("{}: {}", path, error.message());
  if (!result.has_filename() && result.has_relative_path()) result = result.parent_path();
  return result;
}

bool is_inside(const fs::path& inner, const fs::path& outer) {
  const auto [end, rest] = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  return end == outer.end() && rest != inner.end();
}

void check_text(const std::string& path) {
  if (path.empty()) refuse("out: expected a directory, got an empty path");
  if (path.find('\0') != std::string::npos) refuse("out: the path holds a NUL character");
  if (path.front() == '~' || path.front() == '$')
    refuse(
        "out: {}: a recipe does not expand `{}`: write the path itself, or `./{}` for a directory "
        "of that name",
        path, path.front(), path);
  if (path.size() + kLongestInside > PATH_MAX)
    refuse("out: {}...: {} characters, at most {} leave room for the names inside",
           path.substr(0, 60), path.size(), PATH_MAX - kLongestInside);
}

void probe(const std::string& directory) {
  const std::string name = fmt::format("{}/.probe-{}", directory, getpid());
  try {
    write_file_atomically(name, "probe\n");
  } catch (const Error& error) {
    unlink(name.c_str());
    refuse("out: {} is not writable: {}", directory, error.what());
  }
  if (unlink(name.c_str()) != 0)
    refuse("out: {} is not writable: cannot remove {}: {}", directory, name,
           std::generic_category().message(errno));
}

/// The nearest directory that exists.
std::string existing_part(fs::path path) {
  std::error_code error;
  path = fs::absolute(path, error);
  while (!fs::exists(path, error) && path.has_relative_path()) path = path.parent_path();
  return path.string();
}

uint64_t bytes_in(const std::string& directory) {
  uint64_t bytes = 0;
  for (const std::string& name : checkpoint_files::names_in(directory)) {
    std::error_code error;
    const uint64_t size = fs::file_size(directory + "/" + name, error);
    if (!error) bytes += size;
  }
  return bytes;
}

}  // namespace

RunDirectory::RunDirectory(std::string path) : path_(std::move(path)) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
}

std::string RunDirectory::export_to(std::string_view format) const {
  return fmt::format("{}/{}", exports(), format);
}

void RunDirectory::check(std::span<const std::string> inputs) const {
  check_text(path_);
  const fs::path out = resolved(path_);
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_directory(out, error))
    refuse("out: {}: expected a directory, got a file", path_);
  for (fs::path above = out.parent_path(); above.has_relative_path(); above = above.parent_path())
    if (fs::exists(above, error) && !fs::is_directory(above, error))
      refuse("out: {}: {} is a file, not a directory", path_, above.string());
  for (const std::string& input : inputs) {
    const fs::path in = resolved(input);
    if (in == out)
      refuse("out: {}: it is an input of this run as well; give another directory", path_);
    if (fs::is_directory(in, error) && is_inside(out, in))
      refuse("out: {}: it lies inside the input folder {}; give a directory outside", path_, input);
    if (is_inside(in, out))
      refuse(
          "out: {}: the input {} lies inside it and could be overwritten; give another directory",
          path_, input);
  }
}

void RunDirectory::prepare() const {
  check_text(path_);
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) refuse("out: cannot make the directory {}: {}", path_, error.message());
  probe(path_);
  checkpoint_files::require_own_directory(checkpoints());
  if (checkpoint_files::exists(checkpoints())) probe(checkpoints());
}

void RunDirectory::write_result(json result) const {
  result["complete"] = true;
  write_file_atomically(this->result(),
                        result.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

std::optional<json> RunDirectory::complete_result() const {
  std::ifstream in(result(), std::ios::binary);
  if (!in) return std::nullopt;
  json found = json::parse(in, nullptr, false);
  if (!found.is_object() || found.value("complete", json()) != true) return std::nullopt;
  return found;
}

DiskSpace disk_need(const std::string& directory, uint64_t checkpoint_bytes, int keep) {
  DiskSpace space;
  struct statvfs status {};
  if (statvfs(existing_part(directory).c_str(), &status) != 0) return space;
  space.available = uint64_t(status.f_bavail) * status.f_frsize;
  space.needed = checkpoint_bytes * uint64_t(keep + 1);
  for (int64_t step : checkpoint_files::steps_in(directory)) {
    const uint64_t there = bytes_in(directory + "/" + checkpoint_format::step_name(step));
    space.needed -= std::min({space.needed, there, checkpoint_bytes});
  }
  // One new checkpoint must always fit beside the ones that are kept.
  space.needed = std::max(space.needed, checkpoint_bytes);
  return space;
}

void require_disk(const std::string& directory, uint64_t checkpoint_bytes, int keep) {
  const DiskSpace space = disk_need(directory, checkpoint_bytes, keep);
  if (space.enough()) return;
  refuse(
      "{}: needs {} for {} checkpoints of {} (`checkpoint.keep` + 1, less what is there), has {}: "
      "free some space, lower `checkpoint.keep`, or give another `out`",
      directory, bytes_text(space.needed), keep + 1, bytes_text(checkpoint_bytes),
      bytes_text(space.available));
}

std::string bytes_text(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
  double value = double(bytes);
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(kUnits); ++unit) value /= 1000;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.3g} {}", value, kUnits[unit]);
}

}  // namespace qat
