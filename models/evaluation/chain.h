// GSM8K as lm-evaluation-harness asks it: solved examples, a question, a written solution, of which
// a number counts.
#pragma once

#include <string>
#include <vector>

#include "models/evaluation/task_data.h"

namespace qat {

/// "Question: ...\nAnswer: ...", blank line, ..., "Question: ...\nAnswer:".
std::string chain_prompt(const std::vector<TaskRow>& examples, const TaskRow& row);

/// Where a solution ends: the next question, or the end of a turn written out. npos: not yet.
size_t chain_end(const std::string& text);

/// The number after "#### " (strict), or the last number anywhere (flexible), of a solution;
/// without dollar signs, thousands separators and a point at the end. Empty if there is none.
std::string strict_answer(const std::string& text);
std::string flexible_answer(const std::string& text);

}  // namespace qat
