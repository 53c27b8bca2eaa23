// A folder of its own, and what the checkpoints in it are.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/train/checkpoint.h"
#include "tests/faults/step_tensors.h"

namespace qat {

/// Every tensor and the state are those of one and the same step.
inline testing::AssertionResult is_of_one_step(const Checkpoint& checkpoint, int64_t large = 3000) {
  const int64_t step = checkpoint.step();
  if (checkpoint.state() != step_state(step))
    return testing::AssertionFailure() << "state " << checkpoint.state().dump();
  const StepTensors expected(step, large);
  const auto list = expected.list();
  if (checkpoint.tensors().size() != list.size())
    return testing::AssertionFailure() << checkpoint.tensors().size() << " tensors";
  for (const CheckpointTensor& tensor : list) {
    const ConstView got = checkpoint.find(tensor.name);
    if (!got || got.dtype != tensor.view.dtype || got.shape != tensor.view.shape ||
        !std::equal(got.data, got.data + got.bytes(), tensor.view.data))
      return testing::AssertionFailure() << tensor.name << " is not that of step " << step;
  }
  return testing::AssertionSuccess();
}

class CheckpointFixture : public testing::Test {
 protected:
  CheckpointFixture() {
    std::string pattern = (std::filesystem::temp_directory_path() / "checkpoint_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    directory_ = (folder_ / "checkpoints").string();
  }
  ~CheckpointFixture() override { std::filesystem::remove_all(folder_); }

  static CheckpointOptions options(const std::string& run_id = "run1") {
    CheckpointOptions options;
    options.run_id = run_id;
    options.program = "test";
    return options;
  }
  SaveResult save(CheckpointWriter& writer, int64_t step, int64_t large = 3000) const {
    return writer.save(step, step_state(step), StepTensors(step, large).list());
  }
  /// Saves with a writer of its own.
  SaveResult save(int64_t step, const std::string& run_id = "run1") const {
    CheckpointWriter writer(directory_, options(run_id));
    return save(writer, step);
  }
  std::filesystem::path step_path(int64_t step) const {
    return std::filesystem::path(directory_) / ("step-" + std::to_string(step));
  }
  std::filesystem::path rank_path(int64_t step) const {
    return step_path(step) / "rank-0000-of-0001.bin";
  }
  std::filesystem::path manifest_path(int64_t step) const {
    return step_path(step) / "manifest.json";
  }
  /// The step a start would take; -1 for none.
  int64_t newest() const {
    const FoundCheckpoint found = find_checkpoint(directory_);
    if (!found.checkpoint) return -1;
    EXPECT_TRUE(is_of_one_step(*found.checkpoint));
    return found.checkpoint->step();
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  static std::string text_of(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write_text(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  }

  std::filesystem::path folder_;
  std::string directory_;
};

}  // namespace qat
