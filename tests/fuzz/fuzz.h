// What the fuzz targets share: a folder for the bytes they are given, inputs of several files, and
// what a reader may do with damaged input: read it, or refuse it. Anything else ends the process
// under libFuzzer and fails the test that replays the input.
#pragma once

#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace qat::fuzz {

/// A reader did what none may do.
class Broken : public std::logic_error {
  using std::logic_error::logic_error;
};

/// A folder in memory where the system has such a place; removed when the process ends.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const { return path_; }
  /// Writes a file and returns its path.
  std::string write(const std::string& name, std::string_view bytes) const;
  /// Removes all files and folders inside.
  void clear() const;

 private:
  std::string path_;
};

/// Runs `action`, which may refuse its input. True if it did not. Throws Broken where it fails with
/// another exit code.
bool read_or_refuse(const std::function<void()>& action);

/// Several files in one input: each is a line "==== NAME", then its bytes up to the next such line.
using Bundle = std::map<std::string, std::string>;
std::string to_text(const Bundle& bundle);
/// What stands before the first such line is left out, as are files of other names than `names`.
Bundle to_bundle(std::string_view text, const std::vector<std::string>& names);

/// A safetensors file from its header and the beginning of its data: as much data follows as the
/// header asks for, up to 1 MiB, so that changed shapes and types are read and not only refused.
std::string safetensors_file(std::string_view header_and_data);
/// Header, a line feed, data: what safetensors_file() takes.
std::string header_and_data(std::string_view safetensors_file);

/// Reads every byte, which the sanitizers watch.
void touch(const void* data, size_t bytes);

}  // namespace qat::fuzz
