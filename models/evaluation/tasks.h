// Tasks run on a model and judged: accuracies as lm-evaluation-harness defines them, perplexity of
// the expected words, exact matches of generated solutions.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/evaluation/results_file.h"
#include "models/evaluation/scorer.h"
#include "models/evaluation/statistics.h"
#include "models/evaluation/task_data.h"

namespace qat {

/// What a model said to the rows of a task.
struct TaskAnswers {
  std::vector<Likelihood> pairs;    ///< of every row's pairs, row after row; a chain's reference
  std::vector<int64_t> tokens;      ///< scored ones of each pair
  std::vector<std::string> chains;  ///< the solution written to each row
};

struct TaskMetric {
  std::string name;
  double value = 0;
  Interval interval;
};

struct PasskeyCell {
  int64_t length = 0;
  double depth = 0, found = 0;  ///< share of the keys that were found
  int64_t rows = 0;
};

struct TaskResult {
  std::string task;
  int64_t rows = 0;
  int64_t left_out = 0;             ///< rows of a passkey longer than the model's context
  std::vector<TaskMetric> metrics;  ///< the first is the one to look at
  std::vector<double> right;        ///< 1 or 0 a row, by the first accuracy
  std::vector<PasskeyCell> cells;   ///< of passkey, by length, then depth
};

/// How a model is asked.
struct TaskOptions {
  std::vector<TaskRow> examples;  ///< solved ones before each question of a chain
  int64_t max_tokens = 256;       ///< of a generated solution
};

struct EvaluatedModel {
  ForwardSpec spec;
  Store& store;
  const KernelTable& kernels;
  Stream& stream;
  const Tokenizer& tokenizer;
  std::string identity;  ///< model_identity, for the results file
};

using TaskProgress = std::function<void(int64_t done, int64_t total)>;

/// Asks everything that the results file does not hold already, and adds it there. Passkeys longer
/// than the model's context are taken out of `data`.
TaskAnswers ask(const EvaluatedModel& model, TaskData& data, const TaskOptions& options,
                ResultsFile& results, const TaskProgress& progress);

/// acc: the gold choice has the highest log-likelihood; acc_norm: the highest per character;
/// lambada: exp(-mean log-likelihood) and greedy accuracy; gsm8k: exact matches, and perplexity a
/// token of the reference solution.
TaskResult judge(const TaskData& data, const TaskAnswers& answers);

/// Rows whose verdict differs between two models.
struct Flips {
  int64_t rows = 0, to_wrong = 0, to_right = 0;
  Interval difference;  ///< of the accuracies, other minus reference, paired by row
};
Flips flips(const TaskResult& reference, const TaskResult& other);

}  // namespace qat
