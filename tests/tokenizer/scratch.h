// A folder of this process alone, removed when the process ends: tests run side by side.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace qat {

class ScratchFolder {
 public:
  ScratchFolder() : path_(testing::TempDir() + "/qat_tokenizer_XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::filesystem::path path() const { return path_; }
  /// A new folder inside.
  std::filesystem::path make_folder() {
    const std::filesystem::path folder = path() / std::to_string(count_++);
    std::filesystem::create_directories(folder);
    return folder;
  }

 private:
  std::string path_;
  int count_ = 0;
};

inline void write_file(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

}  // namespace qat
