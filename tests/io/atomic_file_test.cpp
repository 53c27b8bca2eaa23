// A file is whole under its name or not there; failures name the file and the reason.
#include "engine/io/atomic_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "engine/core/error.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public testing::Test {
 protected:
  AtomicFileTest() {
    std::string pattern = (fs::temp_directory_path() / "atomic_file_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~AtomicFileTest() override { fs::remove_all(folder_); }

  static std::string text_of(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t entries() const {
    return size_t(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  template <class Action>
  static std::string failure_of(Action action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::cannot_write);
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(AtomicFileTest, AppearsOnlyAtCommit) {
  const fs::path path = folder_ / "a.json";
  write_file_atomically(path, "old");
  AtomicFile file(path);
  file.write("ne");
  file.write("w");
  EXPECT_EQ(file.bytes(), 3u);
  EXPECT_EQ(text_of(path), "old");
  file.commit();
  EXPECT_EQ(text_of(path), "new");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(AtomicFileTest, WithoutCommitNothingChanges) {
  const fs::path path = folder_ / "a.json";
  write_file_atomically(path, "old");
  { AtomicFile(path).write("half of the n"); }
  EXPECT_EQ(text_of(path), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(AtomicFileTest, ReplacesALinkAndNotItsTarget) {
  write_file_atomically(folder_ / "target", "precious");
  fs::create_symlink("target", folder_ / "link");
  write_file_atomically(folder_ / "link", "new");
  EXPECT_EQ(text_of(folder_ / "target"), "precious");
  EXPECT_EQ(text_of(folder_ / "link"), "new");
}

TEST_F(AtomicFileTest, FailuresNameFileAndReason) {
  const std::string missing = folder_ / "no/such/file";
  std::string message = failure_of([&] { write_file_atomically(missing, "x"); });
  EXPECT_NE(message.find(missing), std::string::npos) << message;
  EXPECT_NE(message.find("No such file or directory"), std::string::npos) << message;

  fs::create_directory(folder_ / "taken");
  message = failure_of([&] { write_file_atomically(folder_ / "taken", "x"); });
  EXPECT_NE(message.find("Is a directory"), std::string::npos) << message;
  EXPECT_EQ(entries(), 1u) << "the file aside is removed";

  write_file_atomically(folder_ / "there", "x");
  message = failure_of([&] { OutputFile again(folder_ / "there"); });
  EXPECT_NE(message.find("File exists"), std::string::npos) << message;
}

TEST_F(AtomicFileTest, ANewFileDoesNotFollowALink) {
  fs::create_symlink("elsewhere", folder_ / "link");
  EXPECT_NE(failure_of([&] { OutputFile file(folder_ / "link"); }), "");
  EXPECT_FALSE(fs::exists(folder_ / "elsewhere"));
}

TEST(ParentDirectory, OfEveryKindOfPath) {
  EXPECT_EQ(parent_directory("a"), ".");
  EXPECT_EQ(parent_directory("a/"), ".");
  EXPECT_EQ(parent_directory("/a"), "/");
  EXPECT_EQ(parent_directory("/"), "/");
  EXPECT_EQ(parent_directory("a/b"), "a");
  EXPECT_EQ(parent_directory("/a//b/"), "/a");
  EXPECT_EQ(parent_directory(""), ".");
}

}  // namespace
}  // namespace qat
