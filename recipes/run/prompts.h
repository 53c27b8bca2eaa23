// Prompts from a file.
#pragma once

#include <string>
#include <vector>

namespace qat {

/// One a line of a text file (blank lines are left out), or the field `prompt` of the records of a
/// .jsonl. Refuses a file without any.
std::vector<std::string> read_prompts(const std::string& path);

}  // namespace qat
