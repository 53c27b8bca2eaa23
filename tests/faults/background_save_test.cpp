// Saves beside training: what is written is the step's own state, whatever training does meanwhile;
// ranks agree, and a save that fails or is given up leaves what it should (faults 1, B1, B16).
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <numeric>
#include <thread>

#include "engine/core/error.h"
#include "engine/train/background_thread.h"
#include "engine/train/snapshot.h"
#include "tests/faults/checkpoint_fixture.h"
#include "tests/faults/rank_tensors.h"
#include "tests/ranks/thread_ranks.h"

namespace qat {
namespace {

constexpr int64_t kLarge = 1'500'000;  // floats: written in several chunks

class BackgroundSave : public CheckpointFixture {
 protected:
  /// Every rank's result of one save beside training that changes everything as soon as it may.
  std::vector<SaveResult> save_by(
      int ranks, int64_t step, const std::function<void(int rank, CheckpointOptions&)>& change = {},
      const std::function<void(int rank, StepTensors&)>& poison = {}) {
    std::vector<SaveResult> results{size_t(ranks)};
    on_ranks(ranks, [&](Communicator& mine) {
      CheckpointOptions with = options();
      if (ranks > 1) with.ranks = &mine;
      if (change) change(mine.rank(), with);
      CheckpointWriter writer(directory_, with);
      StepTensors tensors(step, kLarge);
      if (poison) poison(mine.rank(), tensors);
      const auto own = own_tensors(tensors, mine);
      writer.reserve(own);
      writer.begin(step, step_state(step), own);
      EXPECT_EQ(writer.on_its_way(), step);
      writer.wait_until_copied();
      for (float& weight : tensors.weights()) weight = -1.0f;
      std::optional<SaveResult> result;
      while (!result) {
        int64_t busy[] = {writer.busy()};
        mine.all_reduce_max(busy);
        if (busy[0] == 0) result = writer.advance();
      }
      EXPECT_EQ(writer.on_its_way(), -1);
      EXPECT_FALSE(writer.advance());
      EXPECT_GE(result->paused, 0);
      results[size_t(mine.rank())] = *result;
    });
    return results;
  }
};

TEST_F(BackgroundSave, WritesTheStepAsItWas) {
  for (const int ranks : {1, 2, 3}) {
    const int64_t step = 10 * ranks;
    for (const SaveResult& result : save_by(ranks, step)) {
      ASSERT_TRUE(result.committed()) << result.message;
      EXPECT_EQ(result.step, step);
    }
    const Checkpoint loaded = Checkpoint::load(step_path(step));
    EXPECT_EQ(loaded.world(), ranks);
    EXPECT_TRUE(is_of_one_step(loaded, kLarge));
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"step-20", "step-30"})) << "and pruned";
}

TEST_F(BackgroundSave, ACopyMadeAtOnceNeedsNoWait) {
  CheckpointOptions with = options();
  with.copy = SnapshotCopy::at_once;
  CheckpointWriter writer(directory_, with);
  StepTensors tensors(5, kLarge);
  writer.begin(5, step_state(5), tensors.list());
  for (float& weight : tensors.weights()) weight = -1.0f;
  EXPECT_TRUE(writer.finish().committed());
  EXPECT_TRUE(is_of_one_step(Checkpoint::load(step_path(5)), kLarge));
}

TEST_F(BackgroundSave, TheFilesAreThoseOfASaveAtOnce) {
  for (const int ranks : {1, 2}) {
    save_by(ranks, 7);
    std::vector<std::string> beside;
    for (const auto& entry : std::filesystem::directory_iterator(step_path(7)))
      beside.push_back(entry.path().filename().string() + text_of(entry.path()));
    on_ranks(ranks, [&](Communicator& mine) {
      CheckpointOptions with = options();
      if (ranks > 1) with.ranks = &mine;
      CheckpointWriter writer(directory_, with);
      const StepTensors tensors(7, kLarge);
      EXPECT_TRUE(writer.save(7, step_state(7), own_tensors(tensors, mine)).committed());
    });
    std::vector<std::string> at_once;
    for (const auto& entry : std::filesystem::directory_iterator(step_path(7)))
      at_once.push_back(entry.path().filename().string() + text_of(entry.path()));
    std::sort(beside.begin(), beside.end());
    std::sort(at_once.begin(), at_once.end());
    EXPECT_EQ(beside, at_once) << ranks << " ranks";
    std::filesystem::remove_all(step_path(7));
  }
}

TEST_F(BackgroundSave, OnlyOneIsOnItsWay) {
  CheckpointWriter writer(directory_, options());
  const StepTensors tensors(1);
  writer.begin(1, step_state(1), tensors.list());
  EXPECT_THROW(writer.begin(2, step_state(2), tensors.list()), Error);
  EXPECT_THROW(writer.save(2, step_state(2), tensors.list()), Error);
  EXPECT_TRUE(writer.finish().committed());
  EXPECT_EQ(newest(), 1);
}

TEST_F(BackgroundSave, TheMemoryIsTakenOnce) {
  const StepTensors tensors(1, kLarge);
  Snapshot snapshot;
  snapshot.reserve(tensors.list());
  EXPECT_EQ(snapshot.bytes(), snapshot_bytes(tensors.list()));
  const auto first = snapshot.lay_out(tensors.list());
  snapshot.copy();
  const StepTensors less(2, kLarge / 2);
  const auto second = snapshot.lay_out(less.list());
  snapshot.copy();
  EXPECT_EQ(first[0].view.data, second[0].view.data);
  EXPECT_EQ(snapshot.bytes(), snapshot_bytes(tensors.list()));
  EXPECT_EQ(std::memcmp(second[0].view.data, less.list()[0].view.data, second[0].view.bytes()), 0);
}

TEST_F(BackgroundSave, WhatIsNotFiniteIsCommittedByNone) {
  for (const int ranks : {1, 2})
    for (const SaveResult& result : save_by(ranks, 3, {}, [&](int rank, StepTensors&tensors) {
           if (rank == ranks - 1) tensors.weights().back() = std::nanf("");
         })) {
      EXPECT_EQ(result.status, SaveResult::Status::not_finite);
      EXPECT_NE(result.message.find("tensor weights"), std::string::npos) << result.message;
    }
  EXPECT_EQ(names(), std::vector<std::string>{});
}

TEST_F(BackgroundSave, fault_B16_whatOneCannotWriteNoneCommits) {
  ASSERT_TRUE(save_by(2, 1)[0].committed());
  // What a rank takes for the folder aside has a name too long to be made: rank 1's fails as it
  // writes, rank 0's before anybody does.
  for (const int failing : {1, 0}) {
    for (const SaveResult& result : save_by(2, 2, [&](int rank, CheckpointOptions&with) {
           if (rank == failing) with.run_id = std::string(300, 'x');
         })) {
      EXPECT_EQ(result.status, SaveResult::Status::cannot_write);
      EXPECT_TRUE(result.message.starts_with("rank " + std::to_string(failing))) << result.message;
    }
    EXPECT_EQ(names(), std::vector<std::string>{"step-1"});
  }
  EXPECT_TRUE(save_by(2, 2)[0].committed());
}

TEST_F(BackgroundSave, fault_B3_aFileThatMayNotGrowIsAFailedSave) {
  ASSERT_TRUE(save_by(1, 1)[0].committed());
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t most : {rlim_t(100), rlim_t(1) << 20, rlim_t(2) << 20}) {
    const rlimit limit{most, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::vector<SaveResult> results = save_by(2, 2);
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(results[0].status, SaveResult::Status::cannot_write) << most;
    EXPECT_EQ(names(), std::vector<std::string>{"step-1"});
  }
  std::signal(SIGXFSZ, handler);
}

TEST_F(BackgroundSave, GivenUpItLeavesWhatTheNextOneRemoves) {
  ASSERT_TRUE(save_by(1, 1)[0].committed());
  for (const int milliseconds : {0, 1, 3, 8}) {
    {
      const StepTensors tensors(2, kLarge);  // first, because the writer copies until its end
      CheckpointWriter writer(directory_, options("given-up"));
      writer.begin(2, step_state(2), tensors.list());
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    }
    const FoundCheckpoint found = find_checkpoint(directory_);
    ASSERT_TRUE(found.checkpoint);
    EXPECT_TRUE(is_of_one_step(*found.checkpoint, kLarge));
    EXPECT_TRUE(found.skipped.empty());
  }
  ASSERT_TRUE(save_by(1, 3)[0].committed());
  EXPECT_EQ(names().size(), 2u);
}

TEST(BackgroundThreadTest, DoesOnePieceOfWorkAfterTheOther) {
  BackgroundThread thread;
  std::vector<int> done;
  EXPECT_FALSE(thread.busy());
  for (int i = 0; i < 100; ++i) {
    thread.start([&done, i] { done.push_back(i); });
    if (i % 2 == 0) thread.wait();
    while (thread.busy()) std::this_thread::yield();
  }
  std::vector<int> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(done, expected);
  std::atomic<bool> ended = false;
  {
    BackgroundThread other;
    other.start([&ended] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ended = true;
    });
    EXPECT_THROW(other.start([] {}), Error);
  }
  EXPECT_TRUE(ended) << "the end waits for the work in hand";
}

}  // namespace
}  // namespace qat
