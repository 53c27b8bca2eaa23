// Checkpoints that several ranks write and read together (faults B11, B16, B17, C8).
#include <cstring>
#include <numeric>

#include "engine/core/error.h"
#include "tests/faults/checkpoint_fixture.h"
#include "tests/ranks/thread_ranks.h"

namespace qat {
namespace {

constexpr int64_t kRows = 23, kCols = 64;

/// A matrix that is dealt, and a vector that rank 0 holds for all.
struct Training {
  explicit Training(int64_t step) : matrix(size_t(kRows * kCols)), vector{float(step), 1.0f, 2.0f} {
    std::iota(matrix.begin(), matrix.end(), float(step) * 1e4f);
  }
  ConstView rows(Rows rows) const {
    return rows_of(View{reinterpret_cast<std::byte*>(const_cast<float*>(matrix.data())),
                        {kRows, kCols},
                        DType::f32},
                   rows);
  }
  std::vector<CheckpointTensor> part_of(int rank, int ranks) const {
    const Rows own = deal_rows(kRows, kCols, ranks).of(rank);
    std::vector<CheckpointTensor> tensors = {
        {"matrix", rows(own), Finite::required, own.begin, kRows}};
    if (rank == 0)
      tensors.push_back({"vector", ConstView(reinterpret_cast<const std::byte*>(vector.data()), {3},
                                             DType::f32)});
    return tensors;
  }
  std::vector<float> matrix, vector;
};

class SeveralRanks : public CheckpointFixture {
 protected:
  /// Every rank's result, of one save by all of them.
  std::vector<SaveResult> save_by(
      int ranks, int64_t step,
      const std::function<void(int rank, std::vector<CheckpointTensor>&)>& change = {}) {
    std::vector<SaveResult> results{size_t(ranks)};
    on_ranks(ranks, [&](Communicator& mine) {
      CheckpointOptions with = options();
      with.ranks = &mine;
      CheckpointWriter writer(directory_, with);
      const Training training(step);
      std::vector<CheckpointTensor> tensors = training.part_of(mine.rank(), ranks);
      if (change) change(mine.rank(), tensors);
      const nlohmann::json state =
          mine.rank() == 0 ? step_state(step) : nlohmann::json{{"no", "state"}};
      results[size_t(mine.rank())] = writer.save(step, state, tensors);
    });
    return results;
  }

  std::string refusal(int64_t step) const {
    try {
      Checkpoint::load(step_path(step));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(SeveralRanks, fault_C8_anyNumberReadsWhatAnyOtherWrote) {
  for (const int writers : {1, 2, 3, 4, 5}) {
    const int64_t step = writers;
    for (const SaveResult& result : save_by(writers, step))
      ASSERT_TRUE(result.committed()) << result.message;
    const Checkpoint loaded = Checkpoint::load(step_path(step));
    EXPECT_EQ(loaded.world(), writers);
    EXPECT_EQ(loaded.state(), step_state(step));
    EXPECT_EQ(loaded.tensors().size(), 2u);
    const Training expected(step);
    const ConstView whole = loaded.find("matrix");
    ASSERT_EQ(whole.shape, Shape({kRows, kCols}));
    EXPECT_EQ(std::memcmp(whole.data, expected.matrix.data(), whole.bytes()), 0);
    for (const int readers : {1, 2, 3, 4, 7})
      for (int rank = 0; rank < readers; ++rank) {
        const Rows own = deal_rows(kRows, kCols, readers).of(rank);
        std::vector<float> mine(size_t(own.count() * kCols));
        const View into{
            reinterpret_cast<std::byte*>(mine.data()), {own.count(), kCols}, DType::f32};
        if (mine.empty()) continue;
        loaded.read_rows("matrix", own, into);
        EXPECT_EQ(std::memcmp(mine.data(), expected.rows(own).data, into.bytes()), 0)
            << writers << " to " << readers << ", rank " << rank;
      }
  }
}

TEST_F(SeveralRanks, EveryRankGetsTheSameResult) {
  const std::vector<SaveResult> results = save_by(3, 4);
  for (const SaveResult& result : results) {
    EXPECT_TRUE(result.committed());
    EXPECT_EQ(result.path, results[0].path);
  }
  uint64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(step_path(4)))
    files += entry.file_size();
  EXPECT_EQ(results[0].bytes, files);
  EXPECT_EQ(names(), std::vector<std::string>{"step-4"});
}

TEST_F(SeveralRanks, fault_B16_whatOneCannotWriteNoneCommits) {
  ASSERT_TRUE(save_by(2, 1)[0].committed());
  on_ranks(2, [&](Communicator& mine) {
    CheckpointOptions with = options("run2");
    with.ranks = &mine;
    // What rank 1 takes for the folder aside has a name too long to be made.
    if (mine.rank() == 1) with.run_id = std::string(300, 'x');
    CheckpointWriter writer(directory_, with);
    const Training training(2);
    const SaveResult result = writer.save(2, step_state(2), training.part_of(mine.rank(), 2));
    EXPECT_EQ(result.status, SaveResult::Status::cannot_write) << mine.rank();
    EXPECT_TRUE(result.message.starts_with("rank 1: ")) << result.message;
  });
  EXPECT_EQ(names(), std::vector<std::string>{"step-1"});
  EXPECT_EQ(find_checkpoint(directory_).checkpoint->step(), 1);
}

TEST_F(SeveralRanks, WhatIsNotFiniteOnOneRankIsCommittedByNone) {
  std::vector<float> bad(size_t(kRows * kCols), std::nanf(""));
  for (const SaveResult& result :
       save_by(2, 3, [&](int rank, std::vector<CheckpointTensor>&tensors) {
         if (rank == 1) tensors[0].view.data = reinterpret_cast<const std::byte*>(bad.data());
       })) {
    EXPECT_EQ(result.status, SaveResult::Status::not_finite);
    EXPECT_NE(result.message.find("rank 1: tensor matrix"), std::string::npos) << result.message;
  }
  EXPECT_EQ(names(), std::vector<std::string>{});
}

TEST_F(SeveralRanks, fault_B11_aRanksFileOfAnotherStepIsFound) {
  save_by(2, 1);
  save_by(2, 2);
  const std::string name = "rank-0001-of-0002.bin";
  std::filesystem::copy_file(step_path(1) / name, step_path(2) / name,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_NE(refusal(2).find("belongs to another checkpoint: step is 1"), std::string::npos)
      << refusal(2);
  EXPECT_EQ(find_checkpoint(directory_).checkpoint->step(), 1);
  std::filesystem::remove(step_path(2) / name);
  EXPECT_NE(refusal(2).find(name), std::string::npos);
}

TEST_F(SeveralRanks, PartsThatDoNotFitTogetherAreDamage) {
  struct Case {
    const char* what;
    std::function<void(CheckpointTensor&)> change;
    const char* expected;
  };
  const Case cases[] = {
      {"a gap",
       [](CheckpointTensor& t) {
         ++t.first_row;
         t.view.shape = {t.view.shape[0] - 1, kCols};
       },
       "do not fit together"},
      {"an overlap", [](CheckpointTensor& t) { --t.first_row; }, "do not fit together"},
      {"rows missing",
       [](CheckpointTensor& t) {
         t.view.shape = {t.view.shape[0] - 1, kCols};
       },
       "22 rows are there, expected 23"},
      {"whole here, dealt there", [](CheckpointTensor& t) { t.all_rows = -1; }, "twice"},
      {"rows outside", [](CheckpointTensor& t) { t.first_row = kRows; }, "outside of itself"},
  };
  int64_t step = 10;
  for (const Case& c : cases) {
    // The save reads its own file back, so that it is refused there already.
    for (const SaveResult& result :
         save_by(2, ++step, [&](int rank, std::vector<CheckpointTensor>&tensors) {
           if (rank == 1) c.change(tensors[0]);
         }))
      if (result.committed()) {
        EXPECT_NE(refusal(step).find(c.expected), std::string::npos) << c.what << refusal(step);
      }
  }
}

}  // namespace
}  // namespace qat
