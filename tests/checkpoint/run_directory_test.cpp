// The output directory: what `out` may be, its layout, its end, and room on the disk.
#include "engine/train/run_directory.h"

#include <sys/statvfs.h>

#include "engine/core/error.h"
#include "tests/faults/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

class RunDirectoryTest : public CheckpointFixture {
 protected:
  /// The refusal of `out` with these inputs; "" when it passes.
  static std::string refusal(const std::string& out, const std::vector<std::string>& inputs = {}) {
    try {
      RunDirectory(out).check(inputs);
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::refused);
      return error.what();
    }
  }
  std::string in(const std::string& name) const { return (folder_ / name).string(); }
};
class fault_E10 : public RunDirectoryTest {};
class fault_A15 : public RunDirectoryTest {};
class fault_B2 : public RunDirectoryTest {};

TEST_F(fault_E10, WhatOutMustNotBe) {
  fs::create_directories(in("model/inner"));
  write_text(in("model.gguf"), "x");
  EXPECT_EQ(refusal(in("runs/a"), {in("model"), in("model.gguf")}), "");
  EXPECT_EQ(refusal(in("model-out"), {in("model")}), "") << "a common beginning is no folder";
  EXPECT_NE(refusal(""), "");
  EXPECT_NE(refusal("~/runs"), "");
  EXPECT_NE(refusal("$HOME/runs"), "");
  EXPECT_NE(refusal(in("model.gguf")), "") << "a file";
  EXPECT_NE(refusal(in("model.gguf/out")), "") << "below a file";
  EXPECT_NE(refusal(in("model"), {in("model")}), "") << "the input itself";
  EXPECT_NE(refusal(in("model/"), {in("model")}), "");
  EXPECT_NE(refusal(in("model/runs/a"), {in("model")}), "") << "inside the input";
  EXPECT_NE(refusal(in("runs/../model/runs"), {in("model")}), "") << "by a detour";
  EXPECT_NE(refusal(in("model"), {in("model/inner")}), "") << "around an input";
  EXPECT_NE(refusal(folder_.string() + "/" + std::string(4000, 'x')), "");
  fs::create_directory_symlink(in("model"), in("link"));
  EXPECT_NE(refusal(in("link/out"), {in("model")}), "") << "through a link";
}

TEST_F(fault_E10, RelativeToTheWorkingDirectory) {
  fs::create_directories(in("model"));
  const fs::path before = fs::current_path();
  fs::current_path(in("model"));
  EXPECT_NE(refusal("out", {in("model")}), "");
  EXPECT_NE(refusal("out", {"."}), "");
  EXPECT_EQ(refusal("../out", {"."}), "");
  fs::current_path(before);
}

TEST_F(RunDirectoryTest, MissingParentsAreMadeAndNothingElseIsLeft) {
  const RunDirectory run(in("a/b c/größe"));
  run.check({});
  EXPECT_FALSE(fs::exists(in("a"))) << "a check touches nothing";
  run.prepare();
  run.prepare();
  EXPECT_TRUE(fs::is_empty(run.path()));
}

TEST_F(fault_A15, OnlyACompleteResultCounts) {
  const RunDirectory run(in("run"));
  run.prepare();
  EXPECT_FALSE(run.complete_result().has_value());
  for (const char* text : {"", "{", "[]", "{\"complete\": false}", "{\"complete\": 1}"}) {
    write_text(run.result(), text);
    EXPECT_FALSE(run.complete_result().has_value()) << text;
  }
  run.write_result({{"perplexity", {{"bf16", 16.78}}}});
  ASSERT_TRUE(run.complete_result().has_value());
  EXPECT_EQ((*run.complete_result())["perplexity"]["bf16"], 16.78);
}

TEST_F(fault_B2, ADiskKnownTooSmallIsSaidBeforeTheFirstStep) {
  struct statvfs status {};
  ASSERT_EQ(statvfs(folder_.c_str(), &status), 0);
  const uint64_t free = uint64_t(status.f_bavail) * status.f_frsize;
  EXPECT_NO_THROW(require_disk(directory_, free / 10, 2));
  try {
    require_disk(directory_, free / 2, 2);
    FAIL() << "three halves do not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    const std::string message = error.what();
    EXPECT_NE(message.find("needs " + bytes_text(free / 2 * 3)), std::string::npos) << message;
    EXPECT_NE(message.find(", has "), std::string::npos) << message;
  }
}

TEST_F(fault_B2, WhatIsThereAlreadyCountsOnce) {
  const uint64_t before = disk_need(directory_, 20000, 2).needed;
  EXPECT_EQ(before, 60000u);
  const SaveResult result = save(10);
  EXPECT_EQ(disk_need(directory_, 20000, 2).needed, 60000 - result.bytes);
  save(20);
  save(30);
  EXPECT_GE(disk_need(directory_, 20000, 2).needed, 20000u) << "the next one, beside the two";
}

TEST(BytesText, IsForPeople) {
  EXPECT_EQ(bytes_text(999), "999 bytes");
  EXPECT_EQ(bytes_text(1000), "1 kB");
  EXPECT_EQ(bytes_text(1'410'000'000), "1.41 GB");
  EXPECT_EQ(bytes_text(999'999), "1 MB");
}

}  // namespace
}  // namespace qat
