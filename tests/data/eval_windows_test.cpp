// Evaluation windows.
#include "engine/data/eval_windows.h"

#include "tests/data/toy.h"

namespace qat {
namespace {

using toy::Folder;
using toy::refusal;
using Ids = std::vector<int32_t>;

TokenizeOptions in_memory() {
  TokenizeOptions options;
  options.encoder = toy::encoder();
  options.encoder.bos = toy::kBos;
  return options;
}

TEST(EvalWindows, ConsecutiveWindowsOfTheJoinedText) {
  const Folder folder;
  // "abc\n\nde" without bos and eos: windows abc, \n\nd; "e" is dropped.
  const std::string path = folder.write("a.jsonl", "{\"text\":\"abc\"}\n{\"text\":\"de\"}\n");
  const auto windows = EvalWindows::open(path, in_memory(), {.window = 3});
  EXPECT_EQ(windows.windows(), 2);
  EXPECT_EQ(windows.scored_tokens(), 4);
  const Batch batch = windows.rows(0, 8);
  EXPECT_EQ(batch.rows, 2);
  EXPECT_EQ(batch.ids, (Ids{'a', 'b', 'c', '\n', '\n', 'd'}));
  EXPECT_EQ(batch.targets, (Ids{'b', 'c', -1, '\n', 'd', -1}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(batch.first, Ids(6, 0));
  EXPECT_EQ(batch.valid_targets, 4);
  EXPECT_EQ(windows.rows(1, 1).ids, (Ids{'\n', '\n', 'd'}));
  EXPECT_EQ(windows.rows(2, 1).rows, 0);
}

TEST(EvalWindows, BosIsAddedToEachWindow) {
  const Folder folder;
  const std::string path = folder.write("a.txt", "abcd");
  const auto windows = EvalWindows::open(path, in_memory(), {.window = 2, .bos = toy::kBos});
  EXPECT_EQ(windows.windows(), 2);
  EXPECT_EQ(windows.row_tokens(), 3);
  EXPECT_EQ(windows.scored_tokens(), 4);
  const Batch batch = windows.rows(1, 1);
  EXPECT_EQ(batch.ids, (Ids{toy::kBos, 'c', 'd'}));
  EXPECT_EQ(batch.targets, (Ids{'c', 'd', -1}));
}

TEST(EvalWindows, TakesTheFirstWindowsOnly) {
  const Folder folder;
  const std::string path = folder.write("a.txt", std::string(100, 'x'));
  EXPECT_EQ(EvalWindows::open(path, in_memory(), {.window = 9}).windows(), 11);
  EXPECT_EQ(EvalWindows::open(path, in_memory(), {.window = 9, .max_windows = 4}).windows(), 4);
  EXPECT_EQ(EvalWindows::open(path, in_memory(), {.window = 9, .max_windows = 40}).windows(), 11);
}

TEST(EvalWindows, ATextShorterThanAWindowIsRefused) {
  const Folder folder;
  const std::string path = folder.write("a.txt", "abc");
  EXPECT_NE(refusal([&] { EvalWindows::open(path, in_memory(), {.window = 4}); }).find("3 tokens"),
            std::string::npos);
  refusal([&] { EvalWindows::open(path, in_memory(), {.window = 1}); });
}

TEST(EvalWindows, TrainingAndEvaluationShareACacheFolderNotEntries) {
  const Folder folder;
  TokenizeOptions options = in_memory();
  options.cache_directory = folder / "cache";
  const std::string path = folder.write("a.jsonl", "{\"text\":\"abc\"}\n{\"text\":\"de\"}\n");
  EXPECT_EQ(open_tokens(path, options)->info().tokens, 9u);
  EXPECT_EQ(open_tokens(path, options, Records::joined)->info().tokens, 7u);
  EXPECT_EQ(open_tokens(path, options)->info().tokens, 9u);
}

}  // namespace
}  // namespace qat
