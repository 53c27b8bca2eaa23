// Rows of tasks, their texts, and what is made of the likelihoods a model gives them.
#include "models/evaluation/tasks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "engine/core/error.h"
#include "tests/evaluation/folder.h"

namespace qat {
namespace {

TaskData read(const Folder& folder, const char* task, const std::string& text, int64_t limit = 0) {
  const TaskSpec& spec = task_named(task);
  folder.write(spec.file, text);
  return read_task(spec, folder.path(), limit);
}

std::string refusal(const Folder& folder, const char* task, const std::string& text) {
  try {
    read(folder, task, text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    return error.what();
  }
  return "nothing was refused";
}

TEST(TaskRows, AreWrittenAsTheHarnessWritesThem) {
  const Folder folder;
  const std::string row =
      R"({"context": "Question: Why?\n", "choices": ["so", "d\u00e9j\u00e0"], "gold": 1})"
      "\n";
  const TaskData piqa = read(folder, "piqa", row);
  EXPECT_EQ(piqa.rows[0].pairs[0].context, "Question: Why?\nAnswer:");
  EXPECT_EQ(piqa.rows[0].pairs[1].continuation, " d\u00e9j\u00e0");
  EXPECT_EQ(piqa.rows[0].pairs[1].length, 4);  // characters, not its six bytes
  EXPECT_EQ(piqa.rows[0].gold, 1u);
  EXPECT_EQ(read(folder, "openbookqa", row).rows[0].pairs[0].context, "Question: Why?\n");
  const TaskData places = read(
      folder, "winogrande", R"({"contexts": ["a b", "a c"], "continuation": "is d.", "gold": 0})");
  EXPECT_EQ(places.rows[0].pairs[1].context, "a c");
  EXPECT_EQ(places.rows[0].pairs[1].continuation, " is d.");
  const TaskData cloze = read(folder, "lambada", R"({"context": "a b", "continuation": " c"})");
  EXPECT_EQ(cloze.rows[0].pairs[0].continuation, " c");
}

TEST(TaskRows, LimitTakesTheFirst) {
  const Folder folder;
  const std::string row = R"({"context": "a", "continuation": " b"})"
                          "\n";
  EXPECT_EQ(read(folder, "lambada", row + row + row, 2).rows.size(), 2u);
  EXPECT_EQ(read(folder, "lambada", row + row + row).rows.size(), 3u);
  EXPECT_NE(read(folder, "lambada", row + row).hash, read(folder, "lambada", row).hash);
}

TEST(TaskRows, RefusalsNameFileLineAndField) {
  const Folder folder;
  const std::string good = R"({"context": "a", "choices": ["b", "c"], "gold": 0})"
                           "\n";
  EXPECT_NE(refusal(folder, "piqa", good + R"({"context": "a", "gold": 0})")
                .find("piqa.jsonl:2: expected the field `choices`"),
            std::string::npos);
  EXPECT_NE(refusal(folder, "piqa", R"({"context": "a", "choices": ["b", "c"], "gold": 2})")
                .find("expected a whole number below 2 in the field `gold`, got 2"),
            std::string::npos);
  EXPECT_NE(refusal(folder, "piqa", R"({"context": "a", "choices": ["b"], "gold": 0})")
                .find("a list of two texts or more"),
            std::string::npos);
  EXPECT_NE(refusal(folder, "piqa", "").find("got an empty file"), std::string::npos);
  EXPECT_THROW(task_named("mmlu"), Error);
}

TaskAnswers answers(const std::vector<double>& log_likelihoods) {
  TaskAnswers answers;
  for (const double value : log_likelihoods) answers.pairs.push_back({value, value > -1});
  answers.tokens.assign(log_likelihoods.size(), 1);
  return answers;
}

double metric(const TaskResult& result, const std::string& name) {
  for (const TaskMetric& m : result.metrics)
    if (m.name == name) {
      EXPECT_LE(m.interval.low, m.value);
      EXPECT_GE(m.interval.high, m.value);
      return m.value;
    }
  ADD_FAILURE() << name;
  return -1;
}

TEST(Verdicts, AccNormDividesByCharacters) {
  const Folder folder;
  // By likelihood the short choice wins, a character the long one; the tie goes to the first.
  const TaskData data = read(folder, "hellaswag",
                             R"({"context": "a", "choices": ["bb", "cccccccc"], "gold": 1})"
                             "\n"
                             R"({"context": "a", "choices": ["bb", "cc"], "gold": 0})");
  const TaskResult result = judge(data, answers({-3, -4, -2, -2}));
  EXPECT_EQ(metric(result, "acc"), 0.5);
  EXPECT_EQ(metric(result, "acc_norm"), 1.0);
  EXPECT_EQ(result.right, (std::vector<double>{0, 1}));
}

TEST(Verdicts, LambadaIsGreedyAndAPerplexityOfWords) {
  const Folder folder;
  const TaskData data = read(folder, "lambada",
                             R"({"context": "a", "continuation": " b"})"
                             "\n"
                             R"({"context": "a", "continuation": " c"})");
  const TaskResult result = judge(data, answers({-0.5, -3.5}));
  EXPECT_EQ(metric(result, "acc"), 0.5);
  EXPECT_NEAR(metric(result, "perplexity"), std::exp(2.0), 1e-12);
}

TEST(Verdicts, PasskeysAreCountedByLengthAndDepth) {
  const Folder folder;
  std::string rows;
  for (const char* length : {"1008", "1020", "2040"})
    rows += std::string(R"({"context": "a", "continuation": " 1", "depth": 0.5, "length": )") +
            length + "}\n";
  const TaskResult result = judge(read(folder, "passkey", rows), answers({-0.5, -3, -0.1}));
  ASSERT_EQ(result.cells.size(), 2u);
  EXPECT_EQ(result.cells[0].length, 1024);
  EXPECT_EQ(result.cells[0].rows, 2);
  EXPECT_EQ(result.cells[0].found, 0.5);
  EXPECT_EQ(result.cells[1].found, 1.0);
}

TEST(Verdicts, ChainsMatchByTheirLastNumber) {
  const Folder folder;
  const std::string row = R"({"question": "q", "answer": "1+1\n#### 1,002"})"
                          "\n";
  const TaskData data = read(folder, "gsm8k", row + row + row);
  TaskAnswers given = answers({-2, -4, -6});
  given.tokens = {2, 4, 6};
  given.chains = {"so #### 1002", "it is 1,002.", "no"};
  const TaskResult result = judge(data, given);
  EXPECT_NEAR(metric(result, "exact_match_strict"), 1.0 / 3, 1e-12);
  EXPECT_NEAR(metric(result, "exact_match_flexible"), 2.0 / 3, 1e-12);
  EXPECT_NEAR(metric(result, "reference_perplexity"), std::exp(1.0), 1e-12);
}

TEST(Verdicts, FlipsAreCountedBothWays) {
  TaskResult reference, other;
  reference.right = {1, 1, 0, 0, 1};
  other.right = {1, 0, 1, 0, 0};
  const Flips found = flips(reference, other);
  EXPECT_EQ(found.to_wrong, 2);
  EXPECT_EQ(found.to_right, 1);
  EXPECT_LT(found.difference.low, found.difference.high);
}

}  // namespace
}  // namespace qat
