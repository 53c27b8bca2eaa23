// Tasks on files of JSON lines, and the texts of their rows as lm-evaluation-harness puts them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

enum class TaskKind : uint8_t {
  choices,   ///< one context, several continuations, one of them right
  contexts,  ///< several contexts of one continuation
  cloze,     ///< the continuation has to be the likeliest, token by token
  passkey,   ///< cloze over length and depth
  chain      ///< a worked solution is written, its last number counts
};

struct TaskSpec {
  const char* name;
  TaskKind kind;
  const char* file;    ///< in the folder of task data
  const char* prompt;  ///< after the context, whose line ends are taken away
};

const std::vector<TaskSpec>& task_specs();
/// Refuses an unknown name and lists the known ones.
const TaskSpec& task_named(const std::string& name);

/// One row. A choice is scored as context + continuation; `length` is what acc_norm divides by.
struct TaskRow {
  struct Pair {
    std::string context, continuation;
    int64_t length = 0;  ///< characters (code points) of the choice, without the space before it
  };
  std::vector<Pair> pairs;
  size_t gold = 0;
  int64_t passkey_length = 0;  ///< of passkey, as the file says it
  double passkey_depth = 0;
  std::string question, answer;  ///< of a chain
};

struct TaskData {
  const TaskSpec* spec = nullptr;
  std::string path;
  std::vector<TaskRow> rows;
  uint64_t hash = 0;     ///< of what the rows say
  int64_t left_out = 0;  ///< rows that were taken out
};

/// Reads `limit` rows (0: all) of directory/spec.file. Refuses a row that is not as the task needs
/// it with file:line.
TaskData read_task(const TaskSpec& spec, const std::string& directory, int64_t limit);

/// The first `count` rows of a file of questions and answers.
std::vector<TaskRow> read_chain_examples(const std::string& path, int64_t count);

/// Code points of a UTF-8 text.
int64_t code_points(const std::string& utf8);

}  // namespace qat
