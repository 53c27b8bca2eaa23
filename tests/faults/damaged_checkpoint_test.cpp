// Checkpoints damaged on disk (faults B9 to B13, B18, B22): skipped by name for the one before.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "engine/core/error.h"
#include "engine/train/checkpoint_format.h"
#include "tests/faults/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

/// Two whole checkpoints, 10 and 20; each test hurts 20.
class Damage : public CheckpointFixture {
 protected:
  Damage() {
    save(10);
    save(20);
  }
  /// 20 is skipped with a message that holds `reason`, and 10 is taken.
  void expect_skipped(const std::string& reason) const {
    const FoundCheckpoint found = find_checkpoint(directory_);
    ASSERT_TRUE(found.checkpoint.has_value());
    EXPECT_EQ(found.checkpoint->step(), 10);
    EXPECT_TRUE(is_of_one_step(*found.checkpoint));
    ASSERT_EQ(found.skipped.size(), 1u);
    EXPECT_EQ(found.skipped[0].path, step_path(20));
    EXPECT_NE(found.skipped[0].reason.find(reason), std::string::npos) << found.skipped[0].reason;
  }
};
class fault_B9 : public Damage {};
class fault_B10 : public Damage {};
class fault_B11 : public Damage {};
class fault_B12 : public Damage {};
class fault_B13 : public Damage {};
class fault_B18 : public Damage {};
class fault_B22 : public Damage {};

TEST_F(fault_B9, TruncatedAnywhere) {
  for (const fs::path& path : {rank_path(20), manifest_path(20)}) {
    const std::string whole = text_of(path);
    std::vector<size_t> sizes = {0, 1, whole.size() - 1};
    for (size_t size = 4096; size < whole.size(); size += 4096) sizes.push_back(size);
    for (size_t size : sizes) {
      write_text(path, whole.substr(0, size));
      SCOPED_TRACE(path.string() + " cut to " + std::to_string(size));
      expect_skipped(path);
      if (path == rank_path(20))
        expect_skipped(fmt::format("{} bytes, the manifest says {}", size, whole.size()));
    }
    write_text(path, whole);
  }
  write_text(rank_path(20), text_of(rank_path(20)) + "x");
  expect_skipped("bytes, the manifest says");
}

TEST_F(fault_B10, OneFlippedBitAnywhere) {
  std::mt19937_64 random(3);
  for (const fs::path& path : {rank_path(20), manifest_path(20)}) {
    const std::string whole = text_of(path);
    std::vector<size_t> places;
    // Every byte of the header and of the manifest, then 200 anywhere.
    for (size_t at = 0; at < std::min<size_t>(whole.size(), 900); ++at) places.push_back(at);
    for (int i = 0; i < 200; ++i) places.push_back(random() % whole.size());
    for (size_t at : places) {
      std::string flipped = whole;
      flipped[at] = char(flipped[at] ^ char(1 << (random() % 8)));
      write_text(path, flipped);
      SCOPED_TRACE(path.string() + " at " + std::to_string(at));
      expect_skipped(path);
      if (HasFatalFailure()) return;
    }
    write_text(path, whole);
  }
  EXPECT_EQ(newest(), 20) << "restored";
}

TEST_F(fault_B11, AShardOfAnotherStep) {
  ASSERT_EQ(fs::file_size(rank_path(10)), fs::file_size(rank_path(20)));
  fs::copy_file(rank_path(10), rank_path(20), fs::copy_options::overwrite_existing);
  expect_skipped("step is 10, the manifest says 20");
}

TEST_F(fault_B11, AShardOfAnotherRun) {
  const fs::path kept = folder_ / "kept";
  fs::copy_file(rank_path(20), kept);
  save(20, "run2");
  fs::copy_file(kept, rank_path(20), fs::copy_options::overwrite_existing);
  expect_skipped("run_id is \"run1\", the manifest says \"run2\"");
}

TEST_F(fault_B11, AMissingShard) {
  fs::remove(rank_path(20));
  expect_skipped("rank-0000-of-0001.bin: No such file or directory");
}

TEST_F(fault_B11, AnExtraShard) {
  fs::copy_file(rank_path(20), step_path(20) / "rank-0001-of-0002.bin");
  expect_skipped("rank-0001-of-0002.bin: a file the manifest does not list");
}

TEST_F(fault_B11, ADirectoryUnderAnotherStepsName) {
  fs::remove_all(step_path(20));
  fs::copy(step_path(10), step_path(20), fs::copy_options::recursive);
  expect_skipped("its manifest is of step 10");
}

TEST_F(fault_B12, HalfRemovedIsNotWholeAndGoesLater) {
  save(30);
  EXPECT_EQ(names(), (Names{"step-20", "step-30"}));
  fs::remove(manifest_path(20));  // pruning removes the manifest first
  EXPECT_EQ(newest(), 30);
  save(40);
  EXPECT_EQ(names(), (Names{"step-30", "step-40"}));
}

TEST_F(fault_B13, LeftoversAreIgnoredAndRemovedAtTheNextCommit) {
  for (int i = 0; i < 10; ++i)
    fs::copy(step_path(20), step_path(30 + i).string() + ".tmp-dead" + std::to_string(i),
             fs::copy_options::recursive);
  EXPECT_EQ(newest(), 20);
  save(50);
  EXPECT_EQ(names(), (Names{"step-20", "step-50"}));
}

TEST_F(fault_B18, ALinkInPlaceOfACheckpoint) {
  const fs::path outside = folder_ / "outside";
  fs::rename(step_path(20), outside);
  fs::create_directory_symlink(outside, step_path(20));
  expect_skipped("a link or a file");
  for (int64_t step : {30, 40, 50}) save(step);
  EXPECT_TRUE(fs::exists(outside / "manifest.json")) << "pruning does not follow a link";
  EXPECT_TRUE(fs::is_symlink(step_path(20)));
}

TEST_F(fault_B18, LinksInsideACheckpoint) {
  const fs::path outside = folder_ / "outside.bin";
  fs::rename(rank_path(20), outside);
  fs::create_symlink(outside, rank_path(20));
  expect_skipped("a symbolic link");
  for (int64_t step : {30, 40, 50}) save(step);
  EXPECT_FALSE(fs::exists(step_path(20)));
  EXPECT_TRUE(fs::exists(outside));
}

TEST_F(fault_B18, ALinkLoopAFileAndAPipe) {
  fs::remove_all(step_path(20));
  fs::create_symlink(step_path(20), step_path(20));
  expect_skipped("a link or a file");
  fs::remove(step_path(20));
  write_text(step_path(20), "a file");
  expect_skipped("a link or a file");
  fs::remove(step_path(20));
  save(20);
  fs::remove(rank_path(20));
  ASSERT_EQ(mkfifo(rank_path(20).c_str(), 0600), 0);
  expect_skipped("not a regular file");
}

TEST_F(fault_B18, WhatStandsInTheWayOfACommitIsMovedAside) {
  write_text(step_path(30), "a file");
  ASSERT_TRUE(save(30).committed());
  EXPECT_EQ(newest(), 30);
  EXPECT_EQ(text_of(step_path(30).string() + ".bad-run1"), "a file");
}

TEST_F(fault_B18, CheckpointsAsALinkIsRefused) {
  fs::rename(directory_, folder_ / "elsewhere");
  fs::create_directory_symlink(folder_ / "elsewhere", directory_);
  EXPECT_THROW(find_checkpoint(directory_), Error);
  EXPECT_THROW(CheckpointWriter(directory_, options()), Error);
}

TEST_F(fault_B18, SpacesUtf8AndLongNames) {
  directory_ = (folder_ / "two words, größe 模型").string();
  ASSERT_TRUE(save(1).committed());
  EXPECT_EQ(newest(), 1);
  directory_ = folder_.string() + "/" + std::string(4000, 'x');
  const SaveResult result = save(1);
  EXPECT_EQ(result.status, SaveResult::Status::cannot_write);
  EXPECT_NE(result.message.find("File name too long"), std::string::npos) << result.message;
}

TEST_F(fault_B22, ADamagedOneIsMovedAsideByTheNextCommitOfItsStep) {
  fs::resize_file(rank_path(20), 10);
  ASSERT_TRUE(save(20).committed());
  EXPECT_EQ(newest(), 20);
  EXPECT_EQ(names(), (Names{"step-10", "step-20", "step-20.bad-run1"}));
}

TEST_F(fault_B22, ANewerFormatIsRefusedWithBothVersions) {
  std::string text = text_of(manifest_path(20));
  const size_t at = text.find("\"format\":1");
  ASSERT_NE(at, std::string::npos);
  write_text(manifest_path(20), text.replace(at, 10, "\"format\":2"));
  try {
    find_checkpoint(directory_);
    FAIL() << "an older checkpoint must not be taken silently";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    const std::string message = error.what();
    EXPECT_NE(message.find(manifest_path(20)), std::string::npos) << message;
    EXPECT_NE(message.find("format 2"), std::string::npos) << message;
    EXPECT_NE(message.find("up to 1"), std::string::npos) << message;
  }
}

TEST_F(fault_B22, AnUnknownOlderFormatIsNamed) {
  std::string text = text_of(manifest_path(20));
  write_text(manifest_path(20), text.replace(text.find("\"format\":1"), 10, "\"format\":0"));
  expect_skipped("format version 0, this program reads 1");
}

TEST_F(fault_B22, AnotherByteOrderIsRefused) {
  std::string text = text_of(manifest_path(20));
  write_text(manifest_path(20), text.replace(text.find("little"), 6, "big"));
  EXPECT_THROW(find_checkpoint(directory_), Error);
}

/// Writes a manifest and a rank file whose checksums are right but whose header is hostile.
class HostileHeader : public Damage {
 protected:
  void rewrite_header(const std::function<void(nlohmann::json&)>& change) const {
    using checkpoint_format::Prefix;
    const std::string whole = text_of(rank_path(10));
    Prefix prefix;
    std::memcpy(&prefix, whole.data(), sizeof prefix);
    auto header = nlohmann::json::parse(whole.substr(sizeof prefix, prefix.header_bytes));
    header["step"] = 20;
    change(header);
    rewrite_text(header.dump());
  }
  void rewrite_text(const std::string& text) const {
    using checkpoint_format::Prefix;
    const std::string whole = text_of(rank_path(10));
    Prefix prefix;
    std::memcpy(&prefix, whole.data(), sizeof prefix);
    const uint64_t data = prefix.data_offset;
    prefix.header_bytes = text.size();
    const uint64_t offset = checkpoint_format::aligned(sizeof prefix + text.size());
    std::string file(reinterpret_cast<const char*>(&prefix), sizeof prefix);
    file += text;
    file.resize(offset, '\0');
    file += whole.substr(data);
    std::memcpy(file.data() + offsetof(Prefix, data_offset), &offset, sizeof offset);
    checkpoint_format::Checksum checksum;
    checksum.add(file.data(), file.size());
    checkpoint_format::Manifest manifest;
    manifest.run_id = "run1";
    manifest.step = 20;
    manifest.files = {{"rank-0000-of-0001.bin", file.size(), checksum.text()}};
    write_text(rank_path(20), file);
    write_text(manifest_path(20), checkpoint_format::manifest_text(manifest));
  }
};

// Deep enough to overflow the stack of whoever copies or writes the tree.
TEST_F(HostileHeader, fault_E4_deepNestingIsDamage) {
  const std::string deep = std::string(3'000'000, '[') + std::string(3'000'000, ']');
  rewrite_text(R"({"run_id":)" + deep + "}");
  expect_skipped("nested deeper");
  write_text(manifest_path(20), R"({"checksum":"","manifest":{"format":1,"x":)" + deep + "}}\n");
  expect_skipped("nested deeper");
}

TEST_F(HostileHeader, EveryLieAboutATensorIsFound) {
  rewrite_header([](auto&) {});
  EXPECT_NO_THROW(Checkpoint::load(step_path(20))) << "the rewriting itself is sound";
  const std::map<std::string, std::function<void(nlohmann::json&)>> lies = {
      {"outside", [](auto& h) { h["tensors"][0]["shape"] = {int64_t(1) << 40}; }},
      {"impossible",
       [](auto& h) {
         h["tensors"][0]["shape"] = {int64_t(1) << 40, 1 << 30};
       }},
      {"impossible shape", [](auto& h) { h["tensors"][0]["shape"] = {-1}; }},
      {"four dimensions",
       [](auto& h) {
         h["tensors"][0]["shape"] = {1, 1, 1, 1, 1};
       }},
      {"lies outside", [](auto& h) { h["tensors"][0]["offset"] = uint64_t(-64); }},
      {"weights lies outside", [](auto& h) { h["tensors"][0]["offset"] = 4; }},
      {"unknown dtype", [](auto& h) { h["tensors"][0]["dtype"] = "f64"; }},
      {"twice", [](auto& h) { h["tensors"][1]["name"] = "weights"; }},
      {"key 'name'", [](auto& h) { h["tensors"][0].erase("name"); }},
      {"key 'state'", [](auto& h) { h.erase("state"); }},
      {"type must be", [](auto& h) { h["tensors"][0]["shape"] = "[3]"; }}};
  for (const auto& [reason, lie] : lies) {
    rewrite_header(lie);
    SCOPED_TRACE(reason);
    expect_skipped(reason);
  }
}

}  // namespace
}  // namespace qat
